/* A stand-in for libnvidia-ml.so.1 and libcuda.so.1 (compiled with -DAS_CUDA), steered by the text file that FAKE_NVIDIA
 * names. One word and its value a line:
 *   driver 535.183.01      cuda 12020            return FUNCTION CODE      hang FUNCTION      crash FUNCTION
 *   device name=…|capability=8.0|total=…|free=…|mig=0|virtualization=0|fabric=0|uuid=…|instances=SIZE,SIZE|processes=PID:BYTES,…
 * A key that a device lacks is "not supported". CUDA_VISIBLE_DEVICES="" hides all devices from the libcuda part, as CUDA does.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINES 128
#define NOT_SUPPORTED 3
#define NOT_FOUND 6

static char lines[LINES][1024];
static int line_count = -1;

static void load(void) {
    if (line_count >= 0) return;
    line_count = 0;
    const char *path = getenv("FAKE_NVIDIA");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    while (line_count < LINES && fgets(lines[line_count], sizeof lines[0], file)) {
        lines[line_count][strcspn(lines[line_count], "\n")] = 0;
        line_count++;
    }
    fclose(file);
}

static const char *value_of(const char *word) {
    load();
    size_t length = strlen(word);
    for (int place = 0; place < line_count; place++)
        if (!strncmp(lines[place], word, length) && lines[place][length] == ' ') return lines[place] + length + 1;
    return NULL;
}

/* What the file wants of a function: never to come back, to crash, an error code, or 0. */
static int ordered(const char *function) {
    load();
    char word[64];
    int code;
    for (int place = 0; place < line_count; place++) {
        if (sscanf(lines[place], "hang %63s", word) == 1 && !strcmp(word, function))
            for (;;) pause();
        if (sscanf(lines[place], "crash %63s", word) == 1 && !strcmp(word, function)) raise(SIGSEGV);
        if (sscanf(lines[place], "return %63s %d", word, &code) == 2 && !strcmp(word, function)) return code;
    }
    return 0;
}

static const char *device_line(unsigned wanted) {
    load();
    for (int place = 0; place < line_count; place++)
        if (!strncmp(lines[place], "device ", 7) && wanted-- == 0) return lines[place] + 7;
    return NULL;
}

static unsigned device_count(void) {
    unsigned count = 0;
    while (device_line(count)) count++;
    return count;
}

static int text_field(const char *device, const char *key, char *out, size_t size) {
    size_t length = strlen(key);
    for (const char *at = device; at && *at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (strncmp(at, key, length) || at[length] != '=') continue;
        const char *start = at + length + 1;
        size_t many = strcspn(start, "|");
        if (many >= size) many = size - 1;
        memcpy(out, start, many);
        out[many] = 0;
        return 0;
    }
    return NOT_SUPPORTED;
}

static int number_field(const char *device, const char *key, unsigned long long *out) {
    char text[64];
    if (text_field(device, key, text, sizeof text)) return NOT_SUPPORTED;
    *out = strtoull(text, NULL, 10);
    return 0;
}

#define OBEY(function) do { int code_ = ordered(function); if (code_) return code_; } while (0)

#ifndef AS_CUDA

/* A handle is the address of the device's line; a MIG instance's handle is that of a static number. */
static unsigned long long instances[16];

int nvmlInitWithFlags(unsigned flags) { (void)flags; OBEY("nvmlInit"); return 0; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    OBEY("nvmlSystemGetDriverVersion");
    const char *driver = value_of("driver");
    if (!driver) return NOT_SUPPORTED;
    snprintf(out, size, "%s", driver);
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    OBEY("nvmlSystemGetCudaDriverVersion");
    const char *cuda = value_of("cuda");
    if (!cuda) return NOT_SUPPORTED;
    *out = atoi(cuda);
    return 0;
}
int nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

int nvmlDeviceGetCount_v2(unsigned *out) { OBEY("nvmlDeviceGetCount"); *out = device_count(); return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const char **out) {
    char function[64];
    snprintf(function, sizeof function, "nvmlDeviceGetHandleByIndex:%u", index);
    OBEY(function);
    *out = device_line(index);
    return *out ? 0 : NOT_FOUND;
}

int nvmlDeviceGetName(const char *device, char *out, unsigned size) {
    OBEY("nvmlDeviceGetName");
    return text_field(device, "name", out, size);
}

int nvmlDeviceGetUUID(const char *device, char *out, unsigned size) {
    OBEY("nvmlDeviceGetUUID");
    return text_field(device, "uuid", out, size);
}

int nvmlDeviceGetCudaComputeCapability(const char *device, int *major, int *minor) {
    OBEY("nvmlDeviceGetCudaComputeCapability");
    char text[32];
    int code = text_field(device, "capability", text, sizeof text);
    if (!code) sscanf(text, "%d.%d", major, minor);
    return code;
}

int nvmlDeviceGetMemoryInfo(const char *device, unsigned long long *memory) {
    unsigned long long *instance = (unsigned long long *)device;
    if (instance >= instances && instance < instances + 16) {
        memory[0] = *instance; memory[1] = *instance / 2; memory[2] = memory[0] - memory[1];
        return 0;
    }
    OBEY("nvmlDeviceGetMemoryInfo");
    int code = number_field(device, "total", &memory[0]) | number_field(device, "free", &memory[1]);
    memory[2] = memory[0] - memory[1];
    return code;
}

int nvmlDeviceGetMigMode(const char *device, unsigned *current, unsigned *pending) {
    OBEY("nvmlDeviceGetMigMode");
    unsigned long long mode;
    int code = number_field(device, "mig", &mode);
    if (!code) *current = *pending = (unsigned)mode;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(const char *device, unsigned *out) {
    (void)device; OBEY("nvmlDeviceGetMaxMigDeviceCount"); *out = 7; return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const char *device, unsigned index, unsigned long long **out) {
    char text[256], *save = NULL;
    if (text_field(device, "instances", text, sizeof text)) return NOT_FOUND;
    char *word = strtok_r(text, ",", &save);
    for (unsigned place = 0; place < index && word; place++) word = strtok_r(NULL, ",", &save);
    if (!word) return NOT_FOUND;
    instances[index] = strtoull(word, NULL, 10);
    *out = &instances[index];
    return 0;
}

int nvmlDeviceGetVirtualizationMode(const char *device, unsigned *out) {
    OBEY("nvmlDeviceGetVirtualizationMode");
    unsigned long long mode;
    int code = number_field(device, "virtualization", &mode);
    if (!code) *out = (unsigned)mode;
    return code;
}

#define INSUFFICIENT_SIZE 7
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance; unsigned compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(const char *device, unsigned *count, struct process *out) {
    OBEY("nvmlDeviceGetComputeRunningProcesses");
    char text[512], *save = NULL;
    if (text_field(device, "processes", text, sizeof text)) { *count = 0; return 0; }
    unsigned found = 0;
    for (char *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        struct process one = {0, 0, ~0u, ~0u};
        sscanf(word, "%u:%llu", &one.pid, &one.used);
        if (out && found < *count) out[found] = one;
        found++;
    }
    int short_of = found > *count;
    *count = found;
    return short_of ? INSUFFICIENT_SIZE : 0;
}

struct fabric { unsigned char cluster[16]; unsigned status; unsigned clique; unsigned char state; };

int nvmlDeviceGetGpuFabricInfo(const char *device, struct fabric *out) {
    OBEY("nvmlDeviceGetGpuFabricInfo");
    unsigned long long state;
    int code = number_field(device, "fabric", &state);
    if (code) return code;
    memset(out, 0, sizeof *out);
    out->state = (unsigned char)state;
    return 0;
}

#else

#define NO_DEVICE 100

static int hidden(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return visible && !*visible;
}

int cuInit(unsigned flags) { (void)flags; OBEY("cuInit"); return hidden() || !device_count() ? NO_DEVICE : 0; }

int cuDriverGetVersion(int *out) {
    OBEY("cuDriverGetVersion");
    const char *cuda = value_of("cuda");
    *out = cuda ? atoi(cuda) : 0;
    return 0;
}

int cuGetErrorString(int code, const char **out) {
    *out = code == 802 ? "system not yet initialized" : code == NO_DEVICE ? "no CUDA-capable device is detected" : "unknown error";
    return 0;
}

int cuDeviceGetCount(int *out) { *out = (int)device_count(); return 0; }
int cuDeviceGet(int *out, int index) { OBEY("cuDeviceGet"); *out = index; return 0; }
int cuDeviceGetName(char *out, int size, int device) { return text_field(device_line(device), "name", out, size); }

int cuDeviceTotalMem_v2(size_t *out, int device) {
    unsigned long long total;
    int code = number_field(device_line(device), "total", &total);
    if (!code) *out = total;
    return code;
}

int cuDeviceGetAttribute(int *out, int attribute, int device) {
    char text[32];
    int major, minor;
    if (text_field(device_line(device), "capability", text, sizeof text)) return NOT_SUPPORTED;
    sscanf(text, "%d.%d", &major, &minor);
    *out = attribute == 75 ? major : minor;
    return 0;
}

#endif
