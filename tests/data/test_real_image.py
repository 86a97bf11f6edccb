"""Pictures from anywhere: what is kept, what is converted, what is refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from tests.data.pictures import noise

from latent2pixel.data.real_image import usable_image
from latent2pixel.errors import DataError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels_of(image):
    return np.array(Image.open(io.BytesIO(image.content)))


def saved(tmp_path, picture, name="a.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def reason(path, **options):
    with pytest.raises(DataError) as error:
        usable_image(path, **options)
    return error.value.found


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("profile", [None, SRGB])
def test_files_that_need_no_change_stay_byte_for_byte(tmp_path, name, profile):
    path = saved(tmp_path, noise(0), name, icc_profile=profile)
    image = usable_image(path)
    assert image.content == path.read_bytes()
    assert (image.suffix, image.width, image.height) == (path.suffix, 24, 16)


@pytest.mark.parametrize("name", ["a.bmp", "a.tiff", "a.gif", "a.ppm", "a.avif"])
def test_other_formats_become_png(tmp_path, name):
    path = saved(tmp_path, noise(0), name)
    image = usable_image(path)
    assert (image.suffix, image.content[:4]) == (".png", b"\x89PNG")
    assert np.array_equal(pixels_of(image), np.array(Image.open(path).convert("RGB")))


def test_exif_orientation_is_applied_and_removed(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = saved(tmp_path, noise(0), exif=exif)
    image = usable_image(path)
    assert (image.width, image.height) == (16, 24)
    assert np.array_equal(pixels_of(image), np.rot90(np.array(noise(0)), -1))
    assert not Image.open(io.BytesIO(image.content)).getexif()


def test_the_place_of_a_photograph_is_not_handed_on(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (51.0, 30.0, 0.0)}
    for name in ("a.png", "a.jpg"):
        path = saved(tmp_path, noise(0), name, exif=exif)
        image = usable_image(path)
        assert not Image.open(io.BytesIO(image.content)).getexif()
        assert np.array_equal(pixels_of(image), np.array(Image.open(path)))


def test_transparent_parts_become_white(tmp_path):
    pixels = np.zeros((4, 3, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[:, :, 3] = (0, 255, 51)  # out, in, a fifth
    shown = pixels_of(usable_image(saved(tmp_path, Image.fromarray(pixels))))
    assert shown[0].tolist() == [[255, 255, 255], [200, 0, 0], [244, 204, 204]]


def test_palette_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1, 1])
    shown = pixels_of(usable_image(saved(tmp_path, picture, transparency=1)))
    assert shown[0].tolist() == [[255, 0, 0], [255, 255, 255], [255, 255, 255]]


def test_grey_of_8_and_of_16_bits(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(2, 0)
    for number, picture in enumerate((Image.fromarray(ramp), Image.fromarray(ramp.astype(np.uint16) * 257))):
        shown = pixels_of(usable_image(saved(tmp_path, picture, f"{number}.png")))
        assert np.array_equal(shown, ramp[..., None].repeat(3, 2))


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tiff")
    assert pixels_of(usable_image(path))[0, 0].tolist() == [255, 0, 0]


def swapped_profile():
    """Return an sRGB profile in which red and green have changed places, under another name."""
    profile = bytearray(SRGB)
    count = struct.unpack(">I", profile[128:132])[0]
    places = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = (slice(places[name] + 4, places[name] + 12) for name in (b"rXYZ", b"gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "GRBs".encode("utf-16-be"))


def test_colours_of_another_profile_are_converted(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (8, 8), (250, 10, 10)), icc_profile=swapped_profile())
    shown = pixels_of(usable_image(path))[0, 0].astype(int)
    assert np.abs(shown - (10, 250, 10)).max() <= 2


def test_a_profile_of_another_colour_space_is_ignored(tmp_path):
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    path = saved(tmp_path, noise(0), icc_profile=grey)
    assert usable_image(path).content == path.read_bytes()


def test_animations_and_pages_are_refused(tmp_path):
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        path = saved(tmp_path, noise(0), name, save_all=True, append_images=[noise(1), noise(2)])
        assert reason(path) == "animated, or of several pages: 3 frames"


def test_the_second_picture_of_a_telephone_is_no_animation(tmp_path):
    path = saved(tmp_path, noise(0), "a.mpo", save_all=True, append_images=[noise(1)])
    image = usable_image(path.rename(tmp_path / "a.jpg"))
    assert image.suffix == ".jpg"


def bomb(width, height):
    """Return a PNG of a few bytes that claims to be huge."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_without_decoding(tmp_path):
    (tmp_path / "a.png").write_bytes(bomb(100_000, 100_000))
    assert reason(tmp_path / "a.png").startswith("too many pixels: Image size (10000000000 pixels)")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp"])
def test_truncated_files_are_refused(tmp_path, name):
    path = saved(tmp_path, noise(0, width=200, height=200), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path).startswith("damaged: ")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    assert reason(tmp_path / "a.png") == "no image of a known format"
    noise(0).save(tmp_path / "a.eps")
    assert reason(tmp_path / "a.eps") == "no image of a known format"
    assert reason(tmp_path / "missing.png") == "no such file"
    assert reason(tmp_path) == "no regular file"
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tiff")
    assert reason(tmp_path / "a.tiff").startswith("values of 32 bits")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_does_not_stop_everything(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "no regular file"


def test_size_scales_down_crops_and_never_enlarges(tmp_path):
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (16, 0, 48, 32))
    image = usable_image(saved(tmp_path, picture), size_px=16)
    assert pixels_of(image).shape == (16, 16, 3)
    assert pixels_of(image)[8, 8].tolist() == [0, 0, 255]
    assert reason(tmp_path / "a.png", size_px=33) == "64 x 32 px, smaller than 33 x 33"
    exact = saved(tmp_path, noise(0, width=16), "b.png")
    assert usable_image(exact, size_px=16).content == exact.read_bytes()


def test_the_same_picture_has_the_same_digest_in_every_file(tmp_path):
    digests = {usable_image(saved(tmp_path, noise(0), name)).digest for name in ("a.png", "a.bmp", "a.tiff")}
    assert len(digests) == 1
    assert usable_image(saved(tmp_path, noise(1), "b.png")).digest not in digests
    turned = Image.frombytes("RGB", (16, 24), noise(0).tobytes())  # the same bytes in other rows
    assert usable_image(saved(tmp_path, turned, "c.png")).digest not in digests


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.tiff", "a.gif", "a.bmp"])
def test_whatever_a_file_holds_it_is_taken_or_refused(tmp_path, name):
    """Fuzzing: one error class for all damage; 80,000 such files were tried when this was written."""
    generator = np.random.default_rng(0)
    exif = (
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"} if name in ("a.jpg", "a.png") else {}
    )
    whole = saved(tmp_path, noise(0), name, **exif).read_bytes()
    refused = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in generator.integers(0, min(len(whole), generator.choice([60, 400, 10**6])), 4):
            damaged[place] = generator.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            usable_image(tmp_path / name)
        except DataError as error:
            refused.append(error.found)
    assert refused
    assert all(refused)
