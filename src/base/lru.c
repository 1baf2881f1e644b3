/* A bounded map with a memory of use: hash chains for finding, one list for the order of use.
 *
 * The two hard things. Entries are a single allocation (header, value, key) whose value is aligned for any type, and
 * the way back from a value to its header is pointer arithmetic, hence the magic number. And the bucket array grows
 * with the entries, but not in one go: moving a hundred thousand entries would hold up the event loop, so the old
 * array stays beside the new one and every operation moves a few buckets. A growth that fails for want of memory is
 * no error, only longer chains. */
#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "base/lru_priv.h"

#include <pthread.h>
#include <stdalign.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

enum {
	LRU_MAGIC = OBJ_MAGIC('l', 'r', 'u', 'm'),
	ENTRY_MAGIC = OBJ_MAGIC('l', 'r', 'u', 'e'),
	FIRST_BUCKETS = 8,
	MOVE_BUCKETS = 4, /* per operation; 2 would do to be done before the next doubling */
};

struct entry {
	uint32_t magic;
	uint32_t key_size;
	struct entry *chain;
	TAILQ_ENTRY(entry) order;
	uint64_t hash;
	size_t value_size; /* the key stands behind the value */
	alignas(max_align_t) unsigned char value[];
};

struct lru {
	uint32_t magic;
	size_t max, count, value_size;
	lru_drop_fn *drop;
	void *ctx;
	TAILQ_HEAD(, entry) order; /* oldest first */
	struct entry **buckets;
	size_t bucket_count; /* a power of two */
	struct entry **old; /* while growing; those below `moved` are empty */
	size_t old_count, moved;
};

/* --- SipHash-2-4 --------------------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, unsigned by)
{
	return x << by | x >> (64 - by);
}

static uint64_t load_le(const uint8_t *p, size_t n)
{
	uint64_t x = 0;

	for (size_t i = 0; i < n; i++)
		x |= (uint64_t)p[i] << (8 * i);
	return x;
}

static void sip_rounds(uint64_t v[static 4], int rounds)
{
	while (rounds-- > 0) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] = rotate(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] = rotate(v[2], 32);
	}
}

uint64_t lru_siphash(const uint8_t key[static 16], const void *data, size_t size)
{
	const uint8_t *p = data;
	uint64_t k0 = load_le(key, 8), k1 = load_le(key + 8, 8), last = (uint64_t)size << 56;
	uint64_t v[4] = { /* "somepseudorandomlygeneratedbytes" */
		k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u
	};

	for (; size >= 8; p += 8, size -= 8) {
		uint64_t word = load_le(p, 8);

		v[3] ^= word;
		sip_rounds(v, 2);
		v[0] ^= word;
	}
	last |= load_le(p, size);
	v[3] ^= last;
	sip_rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint8_t process_key[16];
static pthread_once_t process_key_once = PTHREAD_ONCE_INIT;

static void process_key_make(void)
{
	/* A known key would let strangers choose their buckets; the kernel's generator has no reason to fail. */
	ADIT_ASSERT(getentropy(process_key, sizeof(process_key)) == 0);
}

unsigned long long lru_hash(const void *key, size_t key_size)
{
	pthread_once(&process_key_once, process_key_make);
	return lru_siphash(process_key, key, key_size);
}

/* --- buckets ------------------------------------------------------------------------------------------------- */

static struct entry **bucket_of(struct lru *map, uint64_t hash)
{
	if (map->old && (hash & (map->old_count - 1)) >= map->moved)
		return &map->old[hash & (map->old_count - 1)];
	return &map->buckets[hash & (map->bucket_count - 1)];
}

static void move_some(struct lru *map)
{
	for (int i = 0; i < MOVE_BUCKETS && map->old; i++) {
		struct entry *e = map->old[map->moved];

		map->old[map->moved++] = NULL;
		while (e) {
			struct entry *next = e->chain, **to = &map->buckets[e->hash & (map->bucket_count - 1)];

			e->chain = *to;
			*to = e;
			e = next;
		}
		if (map->moved == map->old_count) {
			mem_free(map->old);
			map->old = NULL;
		}
	}
}

static void grow_if_full(struct lru *map)
{
	struct entry **bigger;

	if (map->old || map->count < map->bucket_count || map->bucket_count >= map->max)
		return;
	bigger = mem_array(map->bucket_count * 2, sizeof(*bigger));
	if (!bigger)
		return;
	map->old = map->buckets;
	map->old_count = map->bucket_count;
	map->moved = 0;
	map->buckets = bigger;
	map->bucket_count *= 2;
}

static struct entry *find(struct lru *map, uint64_t hash, const void *key, size_t key_size)
{
	struct entry *e;

	OBJ_CHECK(map, LRU_MAGIC);
	move_some(map);
	for (e = *bucket_of(map, hash); e; e = e->chain)
		if (e->hash == hash && e->key_size == key_size &&
		    (key_size == 0 || memcmp(e->value + e->value_size, key, key_size) == 0))
			break;
	return e;
}

static struct entry *entry_of(const void *value)
{
	union { /* lru_key promises not to write; the list needs a pointer that may */
		const void *in;
		unsigned char *out;
	} v = { .in = value };
	struct entry *e;

	ADIT_ASSERT(value != NULL);
	OBJ_CAST(e, (struct entry *)(void *)(v.out - offsetof(struct entry, value)), ENTRY_MAGIC);
	return e;
}

static void entry_remove(struct lru *map, struct entry *e)
{
	struct entry **link = bucket_of(map, e->hash);

	while (*link != e) {
		ADIT_ASSERT(*link != NULL); /* else it is another map's value */
		link = &(*link)->chain;
	}
	*link = e->chain;
	TAILQ_REMOVE(&map->order, e, order);
	map->count--;
	if (map->drop)
		map->drop(e->value, map->ctx);
	OBJ_FINI(e);
	mem_free(e);
}

/* --- the map ------------------------------------------------------------------------------------------------- */

struct lru *lru_new(size_t max, size_t value_size, lru_drop_fn *drop, void *ctx)
{
	struct lru *map = mem_alloc(sizeof(*map));

	if (!map)
		return NULL;
	map->buckets = mem_array(FIRST_BUCKETS, sizeof(*map->buckets));
	if (!map->buckets) {
		mem_free(map);
		return NULL;
	}
	OBJ_INIT(map, LRU_MAGIC);
	map->bucket_count = FIRST_BUCKETS;
	map->max = max > 0 ? max : 1;
	map->value_size = value_size;
	map->drop = drop;
	map->ctx = ctx;
	TAILQ_INIT(&map->order);
	return map;
}

void lru_free(struct lru *map)
{
	if (!map)
		return;
	OBJ_CHECK(map, LRU_MAGIC);
	while (!TAILQ_EMPTY(&map->order))
		entry_remove(map, TAILQ_FIRST(&map->order));
	mem_free(map->old);
	mem_free(map->buckets);
	OBJ_FINI(map);
	mem_free(map);
}

size_t lru_count(const struct lru *map)
{
	return map->count;
}

void *lru_peek(struct lru *map, const void *key, size_t key_size)
{
	struct entry *e = find(map, lru_hash(key, key_size), key, key_size);

	return e ? e->value : NULL;
}

static void touch(struct lru *map, struct entry *e)
{
	if (!TAILQ_NEXT(e, order))
		return;
	TAILQ_REMOVE(&map->order, e, order);
	TAILQ_INSERT_TAIL(&map->order, e, order);
}

void *lru_get(struct lru *map, const void *key, size_t key_size)
{
	struct entry *e = find(map, lru_hash(key, key_size), key, key_size);

	if (!e)
		return NULL;
	touch(map, e);
	return e->value;
}

void *lru_put(struct lru *map, const void *key, size_t key_size, bool *fresh)
{
	uint64_t hash = lru_hash(key, key_size);
	struct entry *e = find(map, hash, key, key_size), **bucket;

	if (fresh)
		*fresh = !e;
	if (e) {
		touch(map, e);
		return e->value;
	}
	if (key_size > UINT32_MAX || map->value_size > SIZE_MAX - sizeof(*e) - key_size)
		return NULL;
	e = mem_alloc(sizeof(*e) + map->value_size + key_size);
	if (!e)
		return NULL;
	OBJ_INIT(e, ENTRY_MAGIC);
	e->hash = hash;
	e->key_size = (uint32_t)key_size;
	e->value_size = map->value_size;
	if (key_size > 0)
		memcpy(e->value + e->value_size, key, key_size);
	/* Only now: a failed allocation must not cost an entry. */
	if (map->count == map->max)
		entry_remove(map, TAILQ_FIRST(&map->order));
	grow_if_full(map);
	bucket = bucket_of(map, hash);
	e->chain = *bucket;
	*bucket = e;
	TAILQ_INSERT_TAIL(&map->order, e, order);
	map->count++;
	return e->value;
}

void lru_remove(struct lru *map, void *value)
{
	OBJ_CHECK(map, LRU_MAGIC);
	entry_remove(map, entry_of(value));
}

const void *lru_key(const void *value, size_t *key_size)
{
	const struct entry *e = entry_of(value);

	*key_size = e->key_size;
	return e->value + e->value_size;
}

void *lru_oldest(struct lru *map)
{
	struct entry *e;

	OBJ_CHECK(map, LRU_MAGIC);
	e = TAILQ_FIRST(&map->order);
	return e ? e->value : NULL;
}

void *lru_newer(struct lru *map, void *value)
{
	struct entry *e = TAILQ_NEXT(entry_of(value), order);

	OBJ_CHECK(map, LRU_MAGIC);
	return e ? e->value : NULL;
}
