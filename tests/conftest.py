"""Small real things to test on: tokenizers, Llamas from config, and one world that went through every stage."""

import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRITON_INTERPRET"] = "1"  # before triton is first imported: its kernels then run on the CPU
# The models here are tiny: a second thread only waits for the first, and on a busy machine it waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gradstore", deadline=None)  # a kernel's first call compiles it; no test is of time
settings.load_profile("gradstore")

AS_MADE = "store-as-made"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@dataclass(frozen=True)
class World:
    """A finished small demo world: its folder, store, and model options."""

    folder: Path
    store_uri: str
    options: object

    @property
    def store(self):
        from gradstore.store import GradientStore

        return GradientStore.open(self.store_uri)

    def copy(self, folder):
        """A store of one's own, as it was made: tests that share the world's leave selections in it."""
        from gradstore.store import GradientStore

        shutil.copytree(self.folder / AS_MADE, folder)
        return GradientStore.open(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model of 60 people that knows the often-seen ones; its questions lie beside it."""
    from gradstore.pipelines import silent
    from gradstore.pipelines.lab import demo
    from gradstore.pipelines.lab.people import people

    folder = tmp_path_factory.mktemp("people")
    settings = demo.DemoSettings(people=60, steps=150, batch_size=64)
    demo._world(folder, people(60), settings, silent)
    return folder


@pytest.fixture(scope="session")
def world(model_folder):
    """The small world, probed, warmed up (2 epochs) and extracted at both, with 512 floats a vector."""
    from gradstore.pipelines import ModelOptions
    from gradstore.pipelines.build import default_extract, default_warmup
    from gradstore.pipelines.extract import extract
    from gradstore.pipelines.ingest import ingest
    from gradstore.pipelines.probe import ProbeSettings, probe
    from gradstore.pipelines.warmup import warmup
    from gradstore.pipelines.work import read_exposure
    from gradstore.store import GradientStore

    options = ModelOptions(str(model_folder / "model"), device="cpu", max_length=128, batch_tokens=2048)
    uri = str(model_folder / "store")
    exposure = read_exposure(options.model)
    for role in ("train", "test"):
        ingest(uri, [model_folder / f"{role}.jsonl"], preset="qa", role=role, exposure=exposure)
    store = GradientStore.open(uri)
    probe(store, options, ProbeSettings(max_new_tokens=8))
    settings = default_warmup(r=4, alpha=8, epochs=2, learning_rate=1e-3)
    folders = warmup(store, options, model_folder / "warmup", settings, rehearsal=40)
    extract(store, replace(options, batch_tokens=1024), folders, default_extract(dim=512))
    shutil.copytree(uri, model_folder / AS_MADE)
    return World(model_folder, uri, options)


@pytest.fixture
def gradstore(capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    from gradstore.cli.main import main

    def run(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


@pytest.fixture(scope="session")
def shared_data():
    """Real questions, where the checkout has them."""
    if not SHARED.exists():
        pytest.skip("the folder of real questions, ../shared/data, is not beside this checkout")
    return SHARED
