/* From where a user has logged in lately: these places go first.
 *
 * The prefixes stand with the user and not in one common map, so that an account used from ten thousand addresses
 * pushes out its own places only. Nothing but a right password ever writes here. */
#include "auth/throttle_priv.h"

#include "adit/base/mem.h"
#include "auth/shards_priv.h"

enum { KNOWN_MAGIC = OBJ_MAGIC('k', 'n', 'w', 'n') };

static const uint64_t known_ms = KNOWN_DAYS * 24ull * 3600 * 1000;

struct places {
	struct {
		uint64_t prefix; /* hash; with at_ms = 0: none */
		uint64_t at_ms;
	} place[KNOWN_PREFIXES];
};

struct known {
	uint32_t magic;
	struct shards users;
};

struct known *known_new(size_t users)
{
	struct known *k = mem_alloc(sizeof(*k));

	if (!k)
		return NULL;
	OBJ_INIT(k, KNOWN_MAGIC);
	if (shards_init(&k->users, users, sizeof(struct places)))
		return k;
	known_free(k);
	return NULL;
}

void known_free(struct known *k)
{
	if (!k)
		return;
	OBJ_CHECK(k, KNOWN_MAGIC);
	shards_fini(&k->users);
	OBJ_FINI(k);
	mem_free(k);
}

static uint64_t prefix_hash(const struct cidr *prefix)
{
	return shards_hash(prefix, (struct slice){ NULL, 0 });
}

void known_note(struct known *k, const struct cidr *prefix, struct slice user, uint64_t now_ms)
{
	uint64_t hash = shards_hash(NULL, user), where = prefix_hash(prefix);
	struct places *places;
	size_t oldest = 0, at = KNOWN_PREFIXES;

	OBJ_CHECK(k, KNOWN_MAGIC);
	places = shards_lock_put(&k->users, hash);
	for (size_t i = 0; places && i < KNOWN_PREFIXES; i++) {
		if (places->place[i].at_ms > 0 && places->place[i].prefix == where)
			at = i;
		if (places->place[i].at_ms < places->place[oldest].at_ms)
			oldest = i;
	}
	if (places) {
		at = at < KNOWN_PREFIXES ? at : oldest;
		places->place[at].prefix = where;
		places->place[at].at_ms = now_ms;
	}
	shards_unlock(&k->users, hash);
}

bool known_is(struct known *k, const struct cidr *prefix, struct slice user, uint64_t now_ms)
{
	uint64_t hash = shards_hash(NULL, user), where = prefix_hash(prefix);
	const struct places *places;
	bool found = false;

	OBJ_CHECK(k, KNOWN_MAGIC);
	places = shards_lock_get(&k->users, hash);
	for (size_t i = 0; places && i < KNOWN_PREFIXES; i++)
		if (places->place[i].at_ms > 0 && places->place[i].prefix == where)
			found = now_ms < places->place[i].at_ms + known_ms;
	shards_unlock(&k->users, hash);
	return found;
}
