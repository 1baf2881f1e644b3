/* Maps shared by all workers: sixteen locks, each held for one look-up.
 *
 * Keys are keyed 64-bit hashes of what they stand for, so that a name of 255 bytes costs no more than one of three.
 * A stranger can not aim at a collision without the process's key, and what hangs on these maps is a budget, not a
 * verdict. */
#include "auth/shards_priv.h"

#include <string.h>

enum { USER_MAX_BYTES = 255 };

bool shards_init(struct shards *s, size_t entries, size_t value_size)
{
	bool ok = true;

	for (size_t i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&s->shard[i].lock, NULL);
		s->shard[i].map = lru_new((entries + SHARDS - 1) / SHARDS, value_size, NULL, NULL);
		ok = ok && s->shard[i].map;
	}
	return ok;
}

void shards_fini(struct shards *s)
{
	for (size_t i = 0; i < SHARDS; i++) {
		pthread_mutex_destroy(&s->shard[i].lock);
		lru_free(s->shard[i].map);
		s->shard[i].map = NULL;
	}
}

uint64_t shards_hash(const struct cidr *prefix, struct slice user)
{
	uint8_t text[1 + 17 + USER_MAX_BYTES];
	size_t n = 0;

	ADIT_ASSERT(user.n <= USER_MAX_BYTES);
	text[n++] = prefix ? 1 : 0;
	if (prefix) {
		memcpy(text + n, prefix->bytes, sizeof(prefix->bytes));
		n += sizeof(prefix->bytes);
		text[n++] = prefix->bits;
	}
	if (user.n > 0)
		memcpy(text + n, user.p, user.n);
	return lru_hash(text, n + user.n);
}

static size_t shard_of(uint64_t hash)
{
	return (size_t)(hash >> 60); /* SHARDS is 16; the map below hashes the key again */
}

void *shards_lock_get(struct shards *s, uint64_t hash)
{
	size_t i = shard_of(hash);

	pthread_mutex_lock(&s->shard[i].lock);
	return lru_get(s->shard[i].map, &hash, sizeof(hash));
}

void *shards_lock_put(struct shards *s, uint64_t hash)
{
	size_t i = shard_of(hash);

	pthread_mutex_lock(&s->shard[i].lock);
	return lru_put(s->shard[i].map, &hash, sizeof(hash), NULL);
}

void shards_unlock(struct shards *s, uint64_t hash)
{
	pthread_mutex_unlock(&s->shard[shard_of(hash)].lock);
}
