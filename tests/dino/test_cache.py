import torch

from dinotile.dino.cache import FeatureCache, Features


def features(values: int) -> Features:
    return torch.zeros(1, 1, values), torch.zeros(0)  # 4 bytes a value


def test_the_least_recently_used_goes_first():
    cache = FeatureCache(entries=2)
    cache.put("a", features(1))
    cache.put("b", features(1))
    assert cache.get("a") is not None
    cache.put("c", features(1))
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None
    assert len(cache) == 2


def test_bytes_bound_the_cache_too():
    cache = FeatureCache(entries=16, max_bytes=100)
    for key in "abc":
        cache.put(key, features(10))
    assert (len(cache), cache.bytes) == (2, 80)
    cache.put("large", features(26))  # alone over the bound: not kept, and nothing is thrown out for it
    assert cache.get("large") is None and (len(cache), cache.bytes) == (2, 80)


def test_replacing_keeps_the_count_of_bytes():
    cache = FeatureCache()
    cache.put("a", features(10))
    cache.put("a", features(3))
    assert (len(cache), cache.bytes) == (1, 12)


def test_the_default_bounds():
    cache = FeatureCache()
    assert (cache.entries, cache.max_bytes) == (16, 512 * 1024 * 1024)
