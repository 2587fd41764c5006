import os
import signal

from .fixtures import *  # noqa: F403

ROOMS = (
    "files",
    "tiling",
    "dino",
    "flux_patch",
    "hosts",
    "upscaling",
    "cli",
    "nodes",
    "demo",
    "benchmarks",
    "training",
    "fuzz",
)
ORDER = (
    "test_house.py",
    "test_docs.py",
    "test_python.py",
    "test_packed.py",
    *ROOMS,
    "gpu",
    "comfyui",
)  # cheap first, so that a mistake shows soon


def pytest_xdist_auto_num_workers(config):
    """Two processes where no ComfyUI takes part; its tests share a server and print what they measured at the end."""
    return min(2, os.cpu_count() or 1) if config.option.markexpr == "not host" else 0


def pytest_configure():
    """What a shell starts in the background ignores SIGINT, and so would all that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--require-host", action="store_true", help="fail, not skip, where there is no ComfyUI")
    parser.addoption("--rewrite-schema", action="store_true", help="write tests/nodes/schema.json anew from ComfyUI")
    parser.addoption(
        "--rewrite-workflows", action="store_true", help="draw workflows/*.json anew from tests/comfyui/templates.py"
    )
    parser.addoption("--rewrite-texts", action="store_true", help="write locales/en and the tables of web/docs anew")


def pytest_collection_modifyitems(config, items):
    def room(item):
        return item.path.relative_to(config.rootpath / "tests").parts[0]

    items.sort(key=lambda item: ORDER.index(room(item)))
    for item in items:
        if room(item) == "comfyui":
            item.add_marker("host")
