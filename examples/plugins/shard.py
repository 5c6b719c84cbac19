from zlib import crc32

from tcpmapkit import Found, hookimpl


class Shard:
    def resolve(self, query):
        return Found(str(crc32(f"{query.user}@{query.domain}".encode()) % 4))


@hookimpl
def register_resolvers(register):
    register("shard", Shard, in_memory=True)
