"""Pictures in and out of files, whole or not at all; and the two scores against scikit-image."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch.ct import read_scan
from pnp_mlpatch.errors import FileError, InputError, PnPError
from pnp_mlpatch.io import images as imageio
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.images import read_image, write_image
from pnp_mlpatch.metrics import mse, psnr, ssim

H, W = 5, 8
RNG = np.random.default_rng(0)
GREY, COLOUR = RNG.integers(0, 256, (H, W), np.uint8), RNG.integers(0, 256, (H, W, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
FLOAT = RNG.normal(size=(H, W)).astype(np.float32)
OPAQUE, GLASS = np.full((H, W, 1), 255, np.uint8), np.full((H, W, 1), 254, np.uint8)


def chw(array: np.ndarray) -> torch.Tensor:
    array = array.astype(np.float32)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())[
        None
    ]


def png(values: np.ndarray, colour_type: int, transparent: int) -> bytes:
    """A PNG file by hand, with a tRNS chunk, which pillow does not write for 16-bit grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(values.dtype.newbyteorder(">")))
    head = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour_type, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff_big_endian(values: np.ndarray) -> bytes:
    """A 16-bit grey TIFF file in big-endian order, as scanners and microscopes write it."""
    data = values.astype(">u2").tobytes()
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"MM\0*"
        + struct.pack(">I", 8 + len(data))
        + data
        + struct.pack(">H", len(tags))
        + entries
        + b"\0\0\0\0"
    )


def tiff(values: np.ndarray, photometric: int = 1) -> bytes:
    """A plain TIFF file of one strip, little-endian, of any type."""
    height, width = values.shape
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [
        (256, width),
        (257, height),
        (258, 8 * values.itemsize),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, values.nbytes),
        (339, form),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + values.nbytes)
        + values.tobytes()
        + struct.pack("<H", len(tags))
        + entries
        + b"\0\0\0\0"
    )


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF file of 12 bit a pixel, two pixels in three bytes, as cameras write it."""
    a, b = values[:, ::2].ravel().astype(int), values[:, 1::2].ravel().astype(int)
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(packed))
        + packed
        + struct.pack("<H", len(tags))
        + entries
        + b"\0\0\0\0"
    )


def colour_png_16() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 13))
        + chunk(b"IEND", b"")
    )


def of(array: np.ndarray, mode: str | None = None) -> Image.Image:
    picture = Image.fromarray(array)
    return picture if mode is None else picture.convert(mode)


def palette() -> Image.Image:
    return of(COLOUR).quantize(256)


READ = {
    "8-bit.png": (of(GREY), chw(GREY) / 255),
    "8-bit.bmp": (of(GREY), chw(GREY) / 255),
    "8-bit.tif": (of(GREY), chw(GREY) / 255),
    "colour.png": (of(COLOUR), chw(COLOUR) / 255),
    "16-bit.png": (of(DEEP), chw(DEEP) / 65535),
    "16-bit.tif": (of(DEEP), chw(DEEP) / 65535),
    "big-endian.tif": (tiff_big_endian(DEEP), chw(DEEP) / 65535),
    "palette.png": (palette(), chw(np.asarray(palette().convert("RGB"))) / 255),
    "1-bit.png": (of(GREY > 128), chw(GREY > 128)),
    "grey-opaque.png": (of(np.concatenate([GREY[..., None], OPAQUE], -1)), chw(GREY) / 255),
    "opaque.png": (of(np.concatenate([COLOUR, OPAQUE], -1)), chw(COLOUR) / 255),
    "unused-transparency.png": (png(GREY // 2, 0, 255), chw(GREY // 2) / 255),
    "unused-transparency-16.png": (png(DEEP // 2, 0, 65535), chw(DEEP // 2) / 65535),
    "cmyk.tif": (of(COLOUR, "CMYK"), chw(np.asarray(of(COLOUR, "CMYK").convert("RGB"))) / 255),
    "float.tif": (of(FLOAT), chw(FLOAT)),
    "grey.npy": (FLOAT, chw(FLOAT)),
    "colour.npy": (COLOUR.astype(np.float64), chw(COLOUR)),
    "integers.npy": (GREY, chw(GREY) / 255),
    "deep.npy": (DEEP.astype(">u2"), chw(DEEP) / 65535),
    "bool.npy": (GREY > 128, chw(GREY > 128)),
    "first.npy": (np.moveaxis(COLOUR, -1, 0), chw(COLOUR) / 255),
    "white-is-zero.tif": (tiff(DEEP, photometric=0), 1 - chw(DEEP) / 65535),
    "white-is-zero-8.tif": (tiff(GREY, photometric=0), 1 - chw(GREY) / 255),
    "12-bit.tif": (twelve_bits(DEEP // 16), chw(DEEP // 16) / 4095),
    "two.npy": (np.stack([FLOAT, FLOAT]), torch.from_numpy(np.stack([FLOAT, FLOAT]))[None]),
    "UPPER.PNG": (of(GREY), chw(GREY) / 255),
}


@pytest.mark.parametrize("name", READ)
def test_read(name, tmp_path):
    content, expected = READ[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        content.save(path)
    image = read_image(path)
    assert image.dtype == torch.float32
    assert image.shape == expected.shape
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(read_image(str(path)), image)


def test_jpeg_and_grey_reading(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
    of(smooth).save(tmp_path / "a.jpg", quality=95)
    assert float((read_image(tmp_path / "a.jpg") - chw(smooth) / 255).abs().max()) < 0.02
    of(COLOUR).save(tmp_path / "c.png")
    luminance = torch.from_numpy(COLOUR @ np.array([0.299, 0.587, 0.114]) / 255).float()[None, None]
    torch.testing.assert_close(read_image(tmp_path / "c.png", gray=True), luminance)
    of(GREY).save(tmp_path / "g.png")
    assert torch.equal(read_image(tmp_path / "g.png", gray=True), chw(GREY) / 255)


def _saved(path, array, **settings) -> None:
    np.save(path, array, **settings)


def _truncated(path) -> None:
    of(RNG.integers(0, 256, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def _damaged_header(path) -> None:
    np.save(path, FLOAT)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"}")] = ord("(")  # the header is a Python literal; this one does not end
    path.write_bytes(bytes(whole))


REFUSED = {
    "transparent.png": (
        lambda p: of(np.concatenate([COLOUR, GLASS], -1)).save(p),
        InputError,
        "partly transparent. Flatten it on a background",
    ),
    "grey-transparent.png": (
        lambda p: of(np.concatenate([GREY[..., None], GLASS], -1)).save(p),
        InputError,
        "partly transparent",
    ),
    "trns.png": (
        lambda p: p.write_bytes(png(GREY, 0, int(GREY[0, 0]))),
        InputError,
        "partly transparent",
    ),
    "trns-16.png": (
        lambda p: p.write_bytes(png(DEEP, 0, int(DEEP[0, 0]))),
        InputError,
        "partly transparent",
    ),
    "negative.tif": (
        lambda p: of(DEEP.astype(np.int32) - 9000).save(p),
        InputError,
        "got signed 32 bit. Save it as float TIFF or .npy",
    ),
    "signed.tif": (
        lambda p: p.write_bytes(tiff(GREY.astype(np.int8))),
        InputError,
        "expected unsigned integers .*got signed 8 bit",
    ),
    "signed-16.tif": (
        lambda p: p.write_bytes(tiff(DEEP.astype(np.int16))),
        InputError,
        "got signed 16 bit",
    ),
    "float-inverted.tif": (
        lambda p: p.write_bytes(tiff(FLOAT, photometric=0)),
        InputError,
        "got 32 bit with white at 0",
    ),
    "int16.npy": (
        lambda p: _saved(p, DEEP.astype(np.int16)),
        InputError,
        "got int16, of which no value means white. Divide by",
    ),
    "int64.npy": (
        lambda p: _saved(p, GREY.astype(np.int64)),
        InputError,
        "got int64, of which no value means white",
    ),
    "mask.npy": (
        lambda p: _saved(p, (GREY > 9).astype(np.uint8)),
        InputError,
        "8-bit values of 0 and 1 are a mask or nearly black",
    ),
    "colour-16.png": (
        lambda p: p.write_bytes(colour_png_16()),
        InputError,
        "16-bit colour is read in 8 bit",
    ),
    "pages.tif": (
        lambda p: of(GREY).save(p, save_all=True, append_images=[of(GREY)]),
        InputError,
        "expected one picture, got 2 pages",
    ),
    "animated.png": (
        lambda p: of(GREY).save(p, save_all=True, append_images=[of(255 - GREY)]),
        InputError,
        "got 2 pages",
    ),
    "nan.tif": (
        lambda p: of(np.where(FLOAT > 1, np.nan, FLOAT)).save(p),
        InputError,
        "holds NaN or infinite values. Mask or replace them",
    ),
    "nan.npy": (
        lambda p: _saved(p, np.array([[1.0, np.nan, np.inf]])),
        InputError,
        "holds NaN or infinite values. Mask or replace them",
    ),
    "overflow.npy": (
        lambda p: _saved(p, np.array([[1e300]])),
        InputError,
        "holds NaN or infinite values",
    ),
    "complex.npy": (
        lambda p: _saved(p, FLOAT * 1j),
        InputError,
        "expected a non-empty array of real numbers, got complex",
    ),
    "text.npy": (
        lambda p: _saved(p, np.array(["a"])),
        InputError,
        "expected a non-empty array of real numbers, got <U1",
    ),
    "empty.npy": (lambda p: _saved(p, np.zeros((0, 4))), InputError, "expected a non-empty array"),
    "line.npy": (
        lambda p: _saved(p, np.ones(4)),
        InputError,
        r"expected an array \(H, W\), \(H, W, 3\), .*got \(4,\)",
    ),
    "batch.npy": (
        lambda p: _saved(p, np.ones((2, 1, 4, 4))),
        InputError,
        r"expected an array \(H, W\).*got \(2, 1, 4, 4\)",
    ),
    "stack.npy": (
        lambda p: _saved(p, np.ones((9, 4, 5))),
        InputError,
        r"with 1 to 3 channels, got \(9, 4, 5\)",
    ),
    "objects.npy": (
        lambda p: _saved(p, np.array([{}], object), allow_pickle=True),
        FileError,
        "not a readable .npy array.*Python objects",
    ),
    "archive.npy": (
        lambda p: np.savez(p.open("wb"), FLOAT),
        PnPError,
        "archive.npy: expected|archive.npy: not a readable",
    ),
    "zero-bytes.npy": (lambda p: p.touch(), FileError, "not a readable .npy array"),
    "half.npy": (
        lambda p: (_saved(p, FLOAT), p.write_bytes(p.read_bytes()[:-9])),
        FileError,
        "not a readable .npy array",
    ),
    "header.npy": (_damaged_header, FileError, "not a readable .npy array"),
    "missing.npy": (lambda p: None, FileError, "not a readable .npy array .*No such file"),
    "folder.npy": (lambda p: p.mkdir(), FileError, "not a readable .npy array"),
    "truncated.png": (_truncated, FileError, "cannot be read as a picture .*Readable: .png"),
    "words.png": (
        lambda p: p.write_text("not a picture"),
        FileError,
        "cannot be read as a picture .*cannot identify",
    ),
    "zero-bytes.png": (lambda p: p.touch(), FileError, "cannot be read as a picture"),
    "missing.png": (lambda p: None, FileError, "cannot be read as a picture .*No such file"),
    "folder.png": (lambda p: p.mkdir(), FileError, "cannot be read as a picture .*directory"),
    "notes.txt": (
        lambda p: p.write_text("not a picture"),
        FileError,
        "cannot be read as a picture .*Readable: .png, .jpg",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, error, words = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(error, match=words) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    of(GREY).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    with pytest.raises(
        FileError, match=r"bomb.png: cannot be read as a picture .*decompression bomb"
    ):
        read_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)  # pillow warns only
    with pytest.raises(
        FileError, match=r"bomb.png: cannot be read as a picture .*decompression bomb"
    ):
        read_image(tmp_path / "bomb.png")


def test_arrays_keep_their_shape_and_double_precision(tmp_path):
    np.save(tmp_path / "sinogram.npy", np.ones((2, 3, 4, 5, 6)))
    assert read_array(tmp_path / "sinogram.npy").shape == (2, 3, 4, 5, 6)
    assert read_array(tmp_path / "sinogram.npy").dtype == torch.float64
    for dtype in (np.float16, np.float32):
        np.save(tmp_path / "a.npy", np.ones((2, 3), dtype))
        assert read_array(tmp_path / "a.npy").dtype == torch.float32
    kept = {
        np.uint8: torch.uint8,
        np.uint16: torch.int64,
        np.int16: torch.int64,
        ">i4": torch.int64,
        bool: torch.bool,
    }
    for dtype, ours in kept.items():
        np.save(tmp_path / "a.npy", np.array([[0, 200]], dtype))
        assert read_array(tmp_path / "a.npy").dtype == ours
        assert read_array(tmp_path / "a.npy").tolist() == [[0, 1 if dtype is bool else 200]]
    np.save(tmp_path / "a.npy", np.array([2**64 - 1], np.uint64))
    with pytest.raises(InputError, match="do not fit 64 bit with a sign"):
        read_array(tmp_path / "a.npy")


def test_a_phone_picture_is_turned(tmp_path):
    """EXIF orientation 6: the picture was stored lying on its side."""
    exif = Image.Exif()
    exif[274] = 6
    of(COLOUR).save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(
        read_image(tmp_path / "a.png"), (chw(COLOUR) / 255).flip(-2).transpose(-1, -2)
    )


def test_the_further_frames_of_a_phone_picture_are_previews(tmp_path):
    of(GREY).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[of(255 - GREY)], quality=100
    )
    assert float((read_image(tmp_path / "a.jpg") - chw(GREY) / 255).abs().max()) < 0.1


def test_damage_in_the_pixels_of_a_png_is_seen_by_its_checksum(tmp_path):
    of(RNG.integers(0, 256, (48, 48), np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[-30:-16] = b"\0" * 14  # ends of the last chunk with pixels, and its checksum
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FileError, match=r"a.png: cannot be read as a picture"):
        read_image(tmp_path / "a.png")


def test_a_tiff_without_a_height(tmp_path):
    damaged = tiff(GREY).replace(
        struct.pack("<HHII", 257, 4, 1, H), struct.pack("<HHII", 260, 4, 1, H)
    )
    (tmp_path / "a.tif").write_bytes(damaged)
    for read in (read_image, read_scan):
        with pytest.raises(FileError, match=r"a.tif: cannot be read"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.npy", "a.png"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_pipes_and_devices_are_refused(name, kind, tmp_path):
    path = tmp_path / name
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(
        FileError,
        match=f"{name}: expected a file, got {kind}. Save what it gives into a file first",
    ):
        read_image(path)


def test_a_header_that_claims_more_than_the_file_holds(tmp_path):
    """10^15 bytes on paper: refused before memory is asked for."""
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**7)}
        )
    with pytest.raises(FileError, match=r"a.npy: not a readable .npy array"):
        read_array(tmp_path / "a.npy")


# ---- writing


@pytest.mark.parametrize(
    ("name", "channels", "tolerance"),
    [
        ("a.npy", 1, 0),
        ("a.npy", 2, 0),
        ("a.npy", 3, 0),
        ("a.png", 1, 0.5 / 255),
        ("a.png", 3, 0.5 / 255),
        ("a.tiff", 1, 0),
        ("a.tif", 1, 0),
    ],
)
@pytest.mark.parametrize("upper", [False, True])
def test_round_trip(name, channels, tolerance, upper, tmp_path):
    path = tmp_path / "new folder" / (name.upper() if upper else name)
    image = torch.rand(1, channels, 5, 8, generator=torch.Generator().manual_seed(0))
    for form in (
        image,
        image[0],
        image.double(),
        image.transpose(-1, -2).contiguous().transpose(-1, -2),
        image.clone().requires_grad_(),
    ):
        write_image(path, form)
        assert float((read_image(path) - image).abs().max()) <= tolerance + 1e-7
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_png_is_clipped_and_the_others_are_not(tmp_path):
    image = torch.tensor([[[-1.0, 0.0, 0.5, 1.0, 2.0]]])
    for name, expected in {
        "a.png": [0, 0, 128 / 255, 1, 1],
        "a.npy": [-1, 0, 0.5, 1, 2],
        "a.tiff": [-1, 0, 0.5, 1, 2],
    }.items():
        write_image(tmp_path / name, image)
        torch.testing.assert_close(
            read_image(tmp_path / name).flatten(), torch.tensor(expected).float()
        )


ONE = torch.ones(1, 5, 8)


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        (
            "a.png",
            ONE[0],
            r"expected one image \(C, H, W\) with 1 to 3 channels, got shape \(5, 8\)",
        ),
        ("a.png", ONE.expand(4, 5, 8), r"with 1 to 3 channels, got shape \(4, 5, 8\)"),
        ("a.npy", ONE.expand(2, 1, 5, 8), r"expected one image .*got shape \(2, 1, 5, 8\)"),
        ("a.png", ONE * torch.nan, "holds NaN or infinite values; it was not written"),
        ("a.npy", ONE / 0, "holds NaN or infinite values; it was not written"),
        ("a.png", ONE.expand(2, 5, 8), "two channels do not fit a .png. Write .npy"),
        (
            "a.tiff",
            ONE.expand(3, 5, 8),
            "float TIFF holds one channel, the image has 3. Write .npy",
        ),
        ("a.jpg", ONE, r"unknown ending '\.jpg'. Writable: .npy, .png, .tiff"),
        ("a", ONE, "unknown ending ''"),
        ("a.png", ONE.numpy(), "tensor"),
        ("a.png", 128 * ONE.byte(), "float"),
        ("a.npy", ONE * 1j, "real|float"),
    ],
    ids=[
        "rank",
        "channels",
        "batch",
        "NaN",
        "inf",
        "two in png",
        "three in tiff",
        "jpg",
        "no ending",
        "numpy",
        "uint8",
        "complex",
    ],
)
def test_not_written(name, image, words, tmp_path):
    with pytest.raises(PnPError, match=words):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tiff"])
def test_a_failed_write_leaves_the_old_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    write_image(path, 0.5 * ONE)
    before = path.read_bytes()

    def full(file, *arguments, **settings):
        (file.write if hasattr(file, "write") else file.write_bytes)(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(imageio.np, "save", full)
    monkeypatch.setattr(Image.Image, "save", lambda self, file, **settings: full(file))
    with pytest.raises(OSError, match="No space left") as caught:
        write_image(path, ONE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert isinstance(caught.value, FileError)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tiff"])
def test_places_that_cannot_be_written(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        FileError, match=r"cannot write there .*Choose a folder that you may write to"
    ):
        write_image(tmp_path / "file" / name, ONE)
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match=name):
        write_image(tmp_path / name, ONE)
    assert {p.name for p in tmp_path.iterdir()} == {"file", name}


# ---- scores


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 2, 11, 14, generator=generator, dtype=torch.float64)
    truth = torch.nn.functional.interpolate(truth, size=(33, 41), mode="bilinear")
    return truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64), truth


@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_scores_agree_with_scikit_image(pair, data_range):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    ours = ssim(*pair, data_range=data_range), psnr(*pair, data_range=data_range)
    for k, (x, truth) in enumerate(zip(*(t.numpy() for t in pair), strict=True)):
        settings = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
            "channel_axis": 0,
        }
        assert (
            abs(
                float(ours[0][k])
                - structural_similarity(x, truth, data_range=data_range, **settings)
            )
            < 1e-6
        )
        assert (
            abs(float(ours[1][k]) - peak_signal_noise_ratio(truth, x, data_range=data_range)) < 1e-6
        )


def test_scores_of_equal_images(pair):
    truth = pair[1]
    assert torch.equal(mse(truth, truth), torch.zeros(3, dtype=torch.float64))
    assert torch.isinf(psnr(truth, truth)).all()
    torch.testing.assert_close(ssim(truth, truth), torch.ones(3, dtype=torch.float64))
    assert ssim(truth[..., :11, :11], truth[..., :11, :11]).shape == (3,)


@pytest.mark.parametrize("score", [mse, psnr, ssim])
def test_scores_refuse(score, pair):
    x, truth = pair
    name = score.__name__
    with pytest.raises(
        InputError,
        match=rf"{name}: both images must have one shape \(B, C, H, W\), got .*41\) and .*40\)",
    ):
        score(x, truth[..., 1:])
    with pytest.raises(InputError, match=rf"{name}: both images must have one shape"):
        score(x[0], truth[0])
    with pytest.raises(PnPError, match=name):
        score(x.numpy(), truth.numpy())


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("score", [psnr, ssim])
def test_scores_refuse_a_range(score, data_range, pair):
    with pytest.raises(
        InputError, match=f"{score.__name__}: data_range must be > 0, got {data_range}"
    ):
        score(*pair, data_range=data_range)


def test_ssim_needs_its_window(pair):
    with pytest.raises(
        InputError, match="ssim: its window is 11 x 11, the images have 10 x 41 pixels"
    ):
        ssim(pair[0][..., :10, :], pair[1][..., :10, :])
