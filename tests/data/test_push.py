"""Uploads: what would go where, and what a Hub receives."""

import pytest
from huggingface_hub import HfApi, constants
from tests.data.fake_hub import fake_hub
from tests.data.pictures import write_images

from latent2pixel.data.pack import pack
from latent2pixel.data.push import plan_upload, push
from latent2pixel.errors import DataError, L2PError, StateError


@pytest.fixture
def packed(tmp_path):
    write_images(tmp_path / "in", num=4)
    (tmp_path / "in" / "shard-00000" / "000001.png").write_bytes(b"")
    pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    return tmp_path / "out"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with fake_hub() as hub:
        yield hub


def test_the_plan_names_card_and_parquet_files_only(packed):
    upload = plan_upload(packed, "me/set", public=False)
    names = ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert list(upload.files) == names
    assert upload.files == {name: (packed / name).stat().st_size for name in names}
    assert (upload.private, upload.licence) == (True, "apache-2.0")


def test_the_hub_receives_the_files(packed, hub):
    upload = plan_upload(packed, "me/set", public=False)
    address = push(packed, upload, api=HfApi(endpoint=hub.address, token="hf_test"))
    assert address == f"{hub.address}/datasets/me/set"
    assert hub.private == {"me/set": True}
    assert hub.files == {name: (packed / name).read_bytes() for name in upload.files}
    # Again: the repository is there.
    push(packed, upload, api=HfApi(endpoint=hub.address, token="hf_test"))


def test_private_images_do_not_go_into_a_public_dataset(packed, hub):
    hub.private["me/set"] = False
    api = HfApi(endpoint=hub.address, token="hf_test")
    with pytest.raises(StateError, match="everybody sees it"):
        push(packed, plan_upload(packed, "me/set", public=False), api=api)
    assert hub.files == {}
    push(packed, plan_upload(packed, "me/set", public=True), api=api)
    assert len(hub.files) == 3


def test_a_refusal_and_no_hub_are_told_in_four_parts(packed, hub):
    upload = plan_upload(packed, "me/set", public=False)
    hub.refuse = True
    with pytest.raises(L2PError, match="did not take the upload") as error:
        push(packed, upload, api=HfApi(endpoint=hub.address, token="hf_test"))
    assert "401" in error.value.found
    with pytest.raises(L2PError, match="did not take the upload"):
        push(packed, upload, api=HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))


def test_a_public_set_needs_a_licence(tmp_path):
    write_images(tmp_path / "in", num=1, licence="")
    pack(tmp_path / "in", tmp_path / "out")
    assert plan_upload(tmp_path / "out", "me/set", public=False).licence is None
    with pytest.raises(DataError, match="without a licence"):
        plan_upload(tmp_path / "out", "me/set", public=True)
    pack(tmp_path / "in", tmp_path / "out", licence="Own Terms")
    assert plan_upload(tmp_path / "out", "me/set", public=True).licence == "own-terms"


def test_unfinished_and_other_folders_are_refused(packed, tmp_path):
    with pytest.raises(DataError, match="no packed set") as error:
        plan_upload(tmp_path / "in", "me/set", public=False)
    assert "l2p data pack" in error.value.fix
    for name in ("set", "me/set/more", "../set", ""):
        with pytest.raises(DataError, match="no name of a dataset"):
            plan_upload(packed, name, public=False)
    (packed / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(StateError, match="not packed wholly"):
        plan_upload(packed, "me/set", public=False)
