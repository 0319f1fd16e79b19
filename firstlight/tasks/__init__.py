"""The Invoke collections: words in, one function called, its result shown."""

from __future__ import annotations

from invoke.collection import Collection

from firstlight.tasks import bootstrap, lock, mirror, model, ollama, serve, service, setup
from firstlight.tasks.doctor import doctor
from firstlight.tasks.facts import machine, plan
from firstlight.tasks.restore import restore
from firstlight.tasks.talk import ask, chat
from firstlight.tasks.up import down, up

namespace = Collection("firstlight")
for _task in (up, down, doctor, machine, plan, chat, ask, restore):
    namespace.add_task(_task)
namespace.add_collection(setup.collection)
namespace.add_collection(serve.collection)
namespace.add_collection(service.collection)
namespace.add_collection(bootstrap.collection)
namespace.add_collection(model.collection)
namespace.add_collection(ollama.collection)
namespace.add_collection(mirror.collection)
namespace.add_collection(lock.collection)
