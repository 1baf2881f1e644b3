/* The verdict cache: HMAC of the credentials to right or wrong, each for its time.
 *
 * Right and wrong have a map each. Wrong passwords are free to invent, and in a common map a guesser would push the
 * right ones out, after which every login costs a hash again; a right one can be had only for one's own line. */
#include "auth/verdict_priv.h"

#include "adit/auth/auth.h"
#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "auth/hash_priv.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

enum { VERDICTS_MAGIC = OBJ_MAGIC('v', 'r', 'd', 's'), LINE_MAX_BYTES = 512 };

/* What the HMAC is for; two uses of one key never share an input. */
enum purpose { PURPOSE_VERDICT = 1, PURPOSE_DECOY = 2 };

struct verdicts {
	uint32_t magic;
	size_t entries;
	struct lru *right, *wrong; /* values: uint64_t, when it was found out */
};

/* The keyed state is made once and copied for each digest: less than half the time of a one-shot HMAC, which looks up
 * its algorithms anew. */
bool verdict_secret_make(struct verdict_secret *secret)
{
	static char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()
	};
	unsigned char key[32];
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	bool ok;

	secret->keyed = mac ? EVP_MAC_CTX_new(mac) : NULL;
	ok = secret->keyed && RAND_priv_bytes(key, sizeof(key)) == 1 &&
	     EVP_MAC_init(secret->keyed, key, sizeof(key), params) == 1;
	mem_burn(key, sizeof(key));
	EVP_MAC_free(mac);
	if (!ok)
		verdict_secret_burn(secret);
	return ok;
}

void verdict_secret_burn(struct verdict_secret *secret)
{
	EVP_MAC_CTX_free(secret->keyed); /* wipes the key */
	secret->keyed = NULL;
}

/* Length before bytes: no two pairs run into the same text. */
static size_t put_part(unsigned char *to, size_t at, struct slice part)
{
	to[at++] = (unsigned char)(part.n >> 8);
	to[at++] = (unsigned char)part.n;
	if (part.n > 0)
		memcpy(to + at, part.p, part.n);
	return at + part.n;
}

static bool hmac(const struct verdict_secret *secret, const unsigned char *text, size_t n, struct verdict_key *out)
{
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(secret->keyed);
	size_t size = 0;
	bool ok = ctx && EVP_MAC_update(ctx, text, n) == 1 &&
		  EVP_MAC_final(ctx, out->bytes, &size, sizeof(out->bytes)) == 1 && size == sizeof(out->bytes);

	EVP_MAC_CTX_free(ctx);
	return ok;
}

bool verdict_key(const struct verdict_secret *secret, struct slice user, struct slice password, const struct user *line,
	struct verdict_key *out)
{
	unsigned char text[1 + 3 * 2 + CREDENTIALS_USER_MAX + CREDENTIALS_PASSWORD_MAX + 1 + LINE_MAX_BYTES];
	struct slice hash = slice_of(line ? line->hash : "");
	size_t n = 0;
	bool ok;

	ADIT_ASSERT(user.n <= CREDENTIALS_USER_MAX && password.n <= CREDENTIALS_PASSWORD_MAX + 1);
	ADIT_ASSERT(hash.n <= LINE_MAX_BYTES);
	if (line && line->kind == HASH_BCRYPT && password.n > HASH_BCRYPT_PASSWORD_MAX)
		password.n = HASH_BCRYPT_PASSWORD_MAX;
	text[n++] = PURPOSE_VERDICT;
	n = put_part(text, n, user);
	n = put_part(text, n, password);
	n = put_part(text, n, hash);
	ok = hmac(secret, text, n, out);
	mem_burn(text, sizeof(text));
	return ok;
}

const struct user *verdict_decoy(const struct verdict_secret *secret, const struct users *users, struct slice name)
{
	unsigned char text[1 + 2 + CREDENTIALS_USER_MAX];
	struct verdict_key mac;
	uint64_t number = 0;
	size_t n = 0;

	ADIT_ASSERT(name.n <= CREDENTIALS_USER_MAX);
	text[n++] = PURPOSE_DECOY;
	n = put_part(text, n, name);
	if (users_count(users) == 0 || !hmac(secret, text, n, &mac))
		return NULL;
	memcpy(&number, mac.bytes, sizeof(number));
	return users_at(users, (size_t)(number % users_count(users)));
}

/* --- the maps -------------------------------------------------------------------------------------------------- */

struct verdicts *verdicts_new(size_t entries)
{
	struct verdicts *v = mem_alloc(sizeof(*v));

	if (!v)
		return NULL;
	OBJ_INIT(v, VERDICTS_MAGIC);
	v->entries = entries;
	v->right = lru_new(entries, sizeof(uint64_t), NULL, NULL);
	v->wrong = lru_new(entries, sizeof(uint64_t), NULL, NULL);
	if (v->right && v->wrong)
		return v;
	verdicts_free(v);
	return NULL;
}

void verdicts_free(struct verdicts *v)
{
	if (!v)
		return;
	OBJ_CHECK(v, VERDICTS_MAGIC);
	lru_free(v->right);
	lru_free(v->wrong);
	OBJ_FINI(v);
	mem_free(v);
}

static struct lru *copy_of(struct lru *old, size_t entries)
{
	struct lru *copy = lru_new(entries, sizeof(uint64_t), NULL, NULL);

	if (!copy)
		return NULL;
	for (void *value = lru_oldest(old); value; value = lru_newer(old, value)) {
		size_t key_n;
		const void *key = lru_key(value, &key_n);
		void *to = lru_put(copy, key, key_n, NULL);

		if (!to) {
			lru_free(copy);
			return NULL;
		}
		memcpy(to, value, sizeof(uint64_t));
	}
	return copy;
}

bool verdicts_resize(struct verdicts *v, size_t entries)
{
	struct lru *right, *wrong;

	OBJ_CHECK(v, VERDICTS_MAGIC);
	if (entries == v->entries)
		return true;
	right = copy_of(v->right, entries);
	wrong = right ? copy_of(v->wrong, entries) : NULL;
	if (!wrong) {
		lru_free(right);
		return false;
	}
	lru_free(v->right);
	lru_free(v->wrong);
	v->right = right;
	v->wrong = wrong;
	v->entries = entries;
	return true;
}

static bool is_fresh(struct lru *map, const struct verdict_key *key, unsigned ttl_ms, uint64_t now_ms)
{
	uint64_t *since = lru_get(map, key->bytes, sizeof(key->bytes));

	if (!since)
		return false;
	/* Two threads' clocks: now_ms may have been read before the entry was made. */
	if (now_ms <= *since || now_ms - *since < ttl_ms)
		return ttl_ms > 0;
	lru_remove(map, since);
	return false;
}

enum verdict verdicts_get(struct verdicts *v, const struct verdict_key *key, struct verdict_ttl ttl, uint64_t now_ms)
{
	OBJ_CHECK(v, VERDICTS_MAGIC);
	if (is_fresh(v->right, key, ttl.right_ms, now_ms))
		return VERDICT_RIGHT;
	if (is_fresh(v->wrong, key, ttl.wrong_ms, now_ms))
		return VERDICT_WRONG;
	return VERDICT_NONE;
}

void verdicts_put(struct verdicts *v, const struct verdict_key *key, bool right, uint64_t now_ms)
{
	uint64_t *since;

	OBJ_CHECK(v, VERDICTS_MAGIC);
	since = lru_put(right ? v->right : v->wrong, key->bytes, sizeof(key->bytes), NULL);
	if (since)
		*since = now_ms;
}
