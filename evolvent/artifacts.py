"""Write-once, content-addressed artifacts in chunks on their own stream."""

from collections import OrderedDict
from dataclasses import dataclass, field

import orjson

from evolvent.errors import Permanent, Rejected, Transient
from evolvent.wire import Wire
from evolvent_schemas import envelope, subjects
from evolvent_schemas.values import Digest, Files, Program, canonical, sha256

STREAM = "BLOBS"
CHUNK = 512 * 1024
"""Bytes per message; half of the server's default limit."""
LARGEST = 1 << 30
"""Bytes; what is larger belongs into an object store, with its address in the fact (DESIGN section 5)."""
REMEMBERED = 64 << 20
"""Bytes of artifacts kept in memory."""


@dataclass
class Artifacts:
    """Put and get artifacts by the SHA-256 of their content."""

    wire: Wire
    _cache: OrderedDict[Digest, bytes] = field(default_factory=OrderedDict)

    async def put(self, content: bytes) -> Digest:
        """Store content and return its digest; storing it again changes nothing.

        Raises:
            Permanent: it is larger than 1 GiB.
            StreamFull: the stream's limit is reached.
        """
        if len(content) > LARGEST:
            raise Permanent(f"an artifact of {len(content)} bytes is larger than {LARGEST}")
        digest = sha256(content)
        chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)] or [b""]
        for number, chunk in enumerate(chunks):
            subject = subjects.blob(digest, number)
            headers = {
                envelope.MSG_ID: subject,
                envelope.EXPECTED_STREAM: STREAM,
                envelope.EXPECTED_SUBJECT_SEQUENCE: "0",
                envelope.CHUNKS: str(len(chunks)),
            }
            await self.wire.store(subject, chunk, headers)
        self._remember(digest, content)
        return digest

    async def get(self, digest: Digest) -> bytes:
        """Read an artifact and check it against its digest.

        Raises:
            Transient: it is not there (yet), or the server does not answer.
            Permanent: what is stored has another digest.
        """
        if digest in self._cache:
            self._cache.move_to_end(digest)
            return self._cache[digest]
        content = await self._read(digest)
        if sha256(content) != digest:
            raise Permanent(f"artifact {digest} is damaged: its content has the digest {sha256(content)}")
        self._remember(digest, content)
        return content

    async def _read(self, digest: Digest) -> bytes:
        chunks: list[bytes] = []
        count = 1
        while len(chunks) < count:
            try:
                message = await self.wire.last(STREAM, subjects.blob(digest, len(chunks)))
            except (TimeoutError, Rejected) as error:
                raise Transient(f"artifact {digest} cannot be read: {error}") from error
            if message is None:
                raise Transient(f"artifact {digest} lacks chunk {len(chunks)} of {count}")
            count = int(message.headers[envelope.CHUNKS])
            chunks.append(message.data)
        return b"".join(chunks)

    def _remember(self, digest: Digest, content: bytes) -> None:
        self._cache[digest] = content
        while sum(map(len, self._cache.values())) > REMEMBERED and len(self._cache) > 1:
            self._cache.popitem(last=False)

    async def put_program(self, program: Program, files: Files) -> None:
        """Store the files of a program that is too large to travel inside its fact."""
        if program.files is None:
            await self.put(canonical(files))

    async def files(self, program: Program) -> Files:
        """Read the files of a program, wherever they are."""
        if program.files is not None:
            return program.files
        files: Files = orjson.loads(await self.get(program.digest))
        return files
