"""Read files from start to end and write as many bytes as one of the sets has: the least that averaging can take.

python tests/bench/plain_copy.py FOLDER TARGET     # FOLDER/*/*.safetensors; the shards of the first go to TARGET
"""

import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    buffer = memoryview(bytearray(8 << 20))
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    target.mkdir(parents=True)
    for path in sorted(folders[0].glob("*.safetensors")):
        left = path.stat().st_size
        with open(target / path.name, "wb", buffering=0) as file:
            while left:
                left -= file.write(buffer[:left])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
