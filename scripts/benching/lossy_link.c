/* Joins two network namespaces by a pair of tun devices with a fixed delay, random loss and, if wanted, a rate.
 *
 *   lossy_link NAMESPACE1 NAMESPACE2 ONE_WAY_MILLISECONDS LOSS_PERCENT BYTES_PER_SECOND
 *
 * For kernels without netem. Both ends stay the kernel's own TCP: 10.99.0.1/24 in the first namespace, 10.99.0.2/24 in
 * the second, device em0 in both. Says "up" when it is, and runs until it is ended. A rate of 0 is none; at a rate,
 * what would wait for longer than 100 ms is dropped, as by a router with a small buffer. Needs root.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 16384
#define LARGEST 2048
#define AT_ONCE 64
#define LONGEST_WAIT 0.1

struct packet {
    double due;
    int length;
    char bytes[LARGEST];
};

/* What is under way towards each end, in the order of its time. */
static struct {
    struct packet *slots;
    int first, end;
    double free_at;
} way[2];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_end(const char *space, const char *address) {
    char path[256], command[512];
    snprintf(path, sizeof path, "/run/netns/%s", space);
    int ns = open(path, O_RDONLY);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) fail(path);
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strcpy(request.ifr_name, "em0");
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) fail("/dev/net/tun");
    snprintf(command, sizeof command,
             "ip addr add %s dev em0 && ip link set em0 mtu 1500 txqueuelen 2000 up && ip link set lo up", address);
    if (system(command)) fail("ip");
    return fd;
}

/* Hand over what is due at this end; returns the seconds until the next packet is, at most `wait`. */
static double deliver(int end, int fd, double wait) {
    double time = now();
    while (way[end].first != way[end].end) {
        struct packet *p = &way[end].slots[way[end].first];
        if (p->due > time) return p->due - time < wait ? p->due - time : wait;
        if (write(fd, p->bytes, p->length) < 0) { /* a full queue at the end: lost, as on a wire */ }
        way[end].first = (way[end].first + 1) % SLOTS;
    }
    return wait;
}

static void take(int end, int fd, double delay, double loss, double rate) {
    char bytes[LARGEST];
    for (int i = 0; i < AT_ONCE; i++) {
        int length = read(fd, bytes, sizeof bytes);
        if (length <= 0) return;
        int next = (way[end].end + 1) % SLOTS;
        if (drand48() < loss || next == way[end].first) continue;
        double start = now();
        if (rate > 0) {
            if (way[end].free_at < start) way[end].free_at = start;
            if (way[end].free_at - start > LONGEST_WAIT) continue;
            start = way[end].free_at += length / rate;
        }
        struct packet *p = &way[end].slots[way[end].end];
        p->due = start + delay;
        p->length = length;
        memcpy(p->bytes, bytes, length);
        way[end].end = next;
    }
}

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "usage: %s NAMESPACE1 NAMESPACE2 ONE_WAY_MILLISECONDS LOSS_PERCENT BYTES_PER_SECOND\n", words[0]);
        return 2;
    }
    double delay = atof(words[3]) / 1e3, loss = atof(words[4]) / 100, rate = atof(words[5]);
    int fd[2] = {open_end(words[1], "10.99.0.1/24"), open_end(words[2], "10.99.0.2/24")};
    for (int end = 0; end < 2; end++)
        if (!(way[end].slots = malloc(sizeof(struct packet) * SLOTS))) fail("malloc");
    srand48(42);
    puts("up");
    fflush(stdout);
    for (;;) {
        double wait = 1;
        for (int end = 0; end < 2; end++) wait = deliver(end, fd[end], wait);
        struct timespec pause = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
        struct pollfd ends[2] = {{fd[0], POLLIN, 0}, {fd[1], POLLIN, 0}};
        ppoll(ends, 2, &pause, NULL);
        for (int end = 0; end < 2; end++)
            if (ends[end].revents & POLLIN) take(1 - end, fd[end], delay, loss, rate);
    }
}
