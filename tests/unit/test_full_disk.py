"""PyTorch's writer on a full disk."""

from pathlib import Path

import pytest

from medstill.errors import StorageError

DEVICE = Path("/dev/full")


@pytest.mark.skipif(not DEVICE.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("numbers", [3, 300_000])
def test_a_checkpoint_on_a_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch, numbers):
    import torch

    from medstill.training import checkpoint

    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda _, mode: really_open(DEVICE, mode))
    with pytest.raises(StorageError, match=r"No space left while writing '.*last\.ckpt'"):
        checkpoint.save(tmp_path / "last.ckpt", {"weights": torch.zeros(numbers)})
    assert list(tmp_path.iterdir()) == []
