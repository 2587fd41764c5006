from ..training.conftest import pictures as pictures
