"""Requests that wait while others are encoded are encoded together; what was asked is kept."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from disret.query_encoder import BATCH, QueryEncoder
from disret.serve.measures import Measures

AT_ONCE = 10_000  # characters of a batch that tables encode as fast as a thread is asked to

LONGEST = 1000  # characters of a text whose vector is kept
Pair = tuple[np.ndarray, int]  # a text's vector, float32 [dimension], and its tokens


class Batcher:
    """Encodes for all requests, a batch at a time; nobody waits for company.

    Args:
        cache: texts whose vectors are kept, the last that were asked for.
    """

    def __init__(self, encoder: QueryEncoder, measures: Measures, cache: int = 0) -> None:
        self.encoder, self.measures = encoder, measures
        self._cache: OrderedDict[str, Pair] = OrderedDict()
        self._most = cache
        self._waiting: deque[tuple[Sequence[str], asyncio.Future[list[Pair]]]] = deque()
        self._work: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(1)

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Embed texts, perhaps together with those of others.

        Returns:
            float32 [n_texts, dimension], and the tokens of all.
        """
        if not self._most:
            return _together(await self._encoded(texts))
        found = {text: self._cache[text] for text in texts if text in self._cache}
        self.measures.cache(len(found), len(set(texts)) - len(found))
        if missing := [text for text in dict.fromkeys(texts) if text not in found]:
            found |= zip(missing, await self._encoded(missing), strict=True)
        for text, (vector, tokens) in found.items():
            if len(text) <= LONGEST:
                # By itself: a row of a batch would keep the others in memory.
                self._cache[text] = np.array(vector), tokens
                self._cache.move_to_end(text)
        while len(self._cache) > self._most:
            self._cache.popitem(last=False)
        return _together([found[text] for text in texts])

    async def _encoded(self, texts: Sequence[str]) -> list[Pair]:
        """Each text's pair, once it is its turn."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, future))
        if self._work is None:
            self._work = asyncio.create_task(self._encode_waiting())
        return await future

    async def _encode_waiting(self) -> None:
        try:
            while self._waiting:
                await self._encode_some()
        finally:
            self._work = None

    async def _encode_some(self) -> None:
        batch = [self._waiting.popleft()]
        room = BATCH - len(batch[0][0])
        while self._waiting and (room := room - len(self._waiting[0][0])) >= 0:
            batch.append(self._waiting.popleft())
        batch = [(texts, future) for texts, future in batch if not future.done()]
        together = [text for texts, _ in batch for text in texts]
        try:
            self.measures.waiting.set(len(self._waiting))
            if self.encoder.is_static and sum(map(len, together)) <= AT_ONCE:
                pairs = self._encode(together)
            else:
                loop = asyncio.get_running_loop()
                pairs = await loop.run_in_executor(self._thread, self._encode, together)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for texts, future in batch:
            own, pairs = pairs[: len(texts)], pairs[len(texts) :]
            if not future.done():  # its client may be gone
                future.set_result(own)

    def _encode(self, texts: Sequence[str]) -> list[Pair]:
        """Each text's vector and number of tokens."""
        start = perf_counter()
        tokens = self.encoder.tokenise(texts)
        counts = [len(one) for one in tokens]  # before they are padded
        vectors = self.encoder.embed(tokens)
        self.measures.batch(len(texts), perf_counter() - start)
        return list(zip(vectors, counts, strict=True))


def _together(pairs: Sequence[Pair]) -> tuple[np.ndarray, int]:
    if len(pairs) == 1:
        return pairs[0][0][None], pairs[0][1]
    return np.stack([vector for vector, _ in pairs]), sum(tokens for _, tokens in pairs)
