from .fixtures import *  # noqa: F403


def pytest_addoption(parser):
    parser.addoption("--require-host", action="store_true", help="fail, not skip, where there is no ComfyUI")
    parser.addoption("--rewrite-schema", action="store_true", help="write tests/nodes/schema.json anew from ComfyUI")
