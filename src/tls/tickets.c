/* The ring of session ticket keys.
 *
 * Time is cut into epochs of half a ticket lifetime. A key issues during its epoch; a ticket from its last second lives
 * two epochs more, so the keys of the two epochs before are kept and then wiped:
 *
 *     epoch   e-2      e-1       e        e+1
 *             takes    takes     issues   takes (secret file only: a node whose clock is ahead)
 *
 * What is hard: a reload may bring another secret while tickets of the old one are about. So every key carries the time
 * until which it is taken, and the ring is a short list in which old and new keys live side by side. */
#include "tls/tickets_priv.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "tls/cert_priv.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define TICKETS_MAGIC OBJ_MAGIC('t', 'k', 'r', 'g')

enum { SECRET_MIN_BYTES = 32, SECRET_MAX_BYTES = 4096, KEPT_EPOCHS = 2, RING = 12, LIFETIME_LEAST_S = 2 };

struct slot {
	struct ticket_key key;
	int64_t until_s; /* monotonic; 0: empty */
};

struct tls_tickets {
	uint32_t magic;
	atomic_uint refs;
	pthread_rwlock_t lock; /* over everything below */
	struct source {
		unsigned lifetime_s;
		char *secret; /* NULL: random keys */
		size_t secret_size;
		int64_t epoch; /* of the issuing key */
		size_t current; /* its place; RING: there is none */
	} from;
	struct slot ring[RING];
	int64_t (*test_clock)(void);
};

static int64_t mono_s(const struct tls_tickets *t)
{
	return t->test_clock ? t->test_clock() : (int64_t)(clock_mono_ms() / 1000);
}

/* The clock that counts epochs: the wall's with a secret, because nodes agree on it. */
static int64_t epoch_clock_s(const struct tls_tickets *t)
{
	return t->test_clock || t->from.secret == NULL ? mono_s(t) : clock_wall_us() / 1000000;
}

static int64_t epoch_s(const struct tls_tickets *t)
{
	return t->from.lifetime_s / 2;
}

/* --- keys --- */

/* HKDF-SHA256 of the secret; the epoch and its length are the info, so that nodes with unlike lifetimes never mix
 * keys. */
static bool derive(const struct tls_tickets *t, int64_t epoch, struct ticket_key *key)
{
	static char digest[] = "SHA256", salt[] = "adit session ticket keys, version 1";
	unsigned char info[16];
	uint64_t length = (uint64_t)epoch_s(t), number = (uint64_t)epoch;
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	bool ok;

	for (unsigned i = 0; i < 8; i++) {
		info[i] = (unsigned char)(number >> (56 - 8 * i));
		info[8 + i] = (unsigned char)(length >> (56 - 8 * i));
	}
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, t->from.secret, t->from.secret_size),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof salt - 1),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info),
		OSSL_PARAM_construct_end(),
	};
	ok = ctx != NULL && EVP_KDF_derive(ctx, (unsigned char *)key, sizeof *key, params) == 1;
	EVP_KDF_CTX_free(ctx); /* wipes its copy of the secret */
	EVP_KDF_free(kdf);
	ERR_clear_error();
	return ok;
}

static void slot_clear(struct slot *s)
{
	mem_burn(s, sizeof *s);
}

/* An empty slot, else the one that would be wiped first; never the issuing one. */
static size_t slot_free(const struct tls_tickets *t)
{
	size_t best = RING;

	for (size_t i = 0; i < RING; i++)
		if (i != t->from.current && (best == RING || t->ring[i].until_s < t->ring[best].until_s))
			best = i;
	return best;
}

static size_t slot_named(const struct tls_tickets *t, const unsigned char *name)
{
	for (size_t i = 0; i < RING; i++)
		if (t->ring[i].until_s != 0 && memcmp(t->ring[i].key.name, name, TICKET_NAME_BYTES) == 0)
			return i;
	return RING;
}

/* Puts the key of an epoch into the ring and returns its place; RING: it could not be made. */
static size_t add_epoch(struct tls_tickets *t, int64_t epoch)
{
	int64_t left = (epoch + 1 + KEPT_EPOCHS) * epoch_s(t) - epoch_clock_s(t);
	struct slot fresh = { .until_s = mono_s(t) + left };
	size_t at = RING;
	bool ok = t->from.secret != NULL ? derive(t, epoch, &fresh.key) :
		RAND_bytes((unsigned char *)&fresh.key, sizeof fresh.key) == 1;

	if (ok) {
		at = slot_named(t, fresh.key.name);
		if (at == RING)
			at = slot_free(t);
		t->ring[at] = fresh;
	}
	ERR_clear_error();
	slot_clear(&fresh);
	return at;
}

/* Makes the ring right for this moment. Without a new key (no random bytes) the last one goes on, and the next call
 * tries again. */
static void move_on(struct tls_tickets *t)
{
	int64_t epoch = epoch_clock_s(t) / epoch_s(t), now = mono_s(t);
	size_t at;

	for (size_t i = 0; i < RING; i++)
		if (i != t->from.current && t->ring[i].until_s <= now)
			slot_clear(&t->ring[i]);
	at = add_epoch(t, epoch);
	if (at == RING)
		return;
	t->from.current = at;
	t->from.epoch = epoch;
	if (t->from.secret == NULL)
		return;
	for (int64_t e = epoch - KEPT_EPOCHS; e <= epoch + 1; e++)
		if (e != epoch)
			(void)add_epoch(t, e);
}

static bool is_right(const struct tls_tickets *t)
{
	return t->from.current != RING && epoch_clock_s(t) / epoch_s(t) == t->from.epoch;
}

/* Takes the lock: for reading, or, once an epoch, for writing. */
static void enter(struct tls_tickets *t)
{
	OBJ_CHECK(t, TICKETS_MAGIC);
	(void)pthread_rwlock_rdlock(&t->lock);
	if (is_right(t))
		return;
	(void)pthread_rwlock_unlock(&t->lock);
	(void)pthread_rwlock_wrlock(&t->lock);
	if (!is_right(t))
		move_on(t);
}

static void leave(struct tls_tickets *t)
{
	(void)pthread_rwlock_unlock(&t->lock);
}

bool tickets_current(struct tls_tickets *t, struct ticket_key *out)
{
	bool ok;

	enter(t);
	ok = t->from.current != RING;
	if (ok)
		*out = t->ring[t->from.current].key;
	leave(t);
	return ok;
}

enum ticket_found tickets_find(struct tls_tickets *t, const unsigned char name[static TICKET_NAME_BYTES],
	struct ticket_key *out)
{
	enum ticket_found found = TICKET_UNKNOWN;
	size_t at;

	enter(t);
	at = slot_named(t, name);
	if (at != RING && t->ring[at].until_s > mono_s(t)) {
		*out = t->ring[at].key;
		found = at == t->from.current ? TICKET_CURRENT : TICKET_OLD;
	}
	leave(t);
	return found;
}

void tls_tickets_rotate(struct tls_tickets *t)
{
	int64_t now;

	OBJ_CHECK(t, TICKETS_MAGIC);
	(void)pthread_rwlock_wrlock(&t->lock);
	now = mono_s(t);
	if (!is_right(t))
		move_on(t);
	for (size_t i = 0; i < RING; i++)
		if (i != t->from.current && t->ring[i].until_s != 0 && t->ring[i].until_s <= now)
			slot_clear(&t->ring[i]);
	leave(t);
}

void tickets_set_clock(struct tls_tickets *t, int64_t (*now_s)(void))
{
	t->test_clock = now_s;
}

/* --- life --- */

/* The file without white space at its end, which editors and shells add; NULL with a sentence. */
static char *read_secret(const char *path, size_t *size, char *error, size_t error_size)
{
	char reason[128];
	unsigned mode;
	char *buf = cert_read_file(path, SECRET_MAX_BYTES, size, &mode, reason, sizeof reason);

	if (buf == NULL) {
		(void)snprintf(error, error_size, "%s: the ticket secret cannot be read: %s", path, reason);
		return NULL;
	}
	while (*size > 0 && strchr(" \t\r\n", buf[*size - 1]) != NULL && buf[*size - 1] != '\0')
		buf[--*size] = '\0';
	if (*size < SECRET_MIN_BYTES) {
		(void)snprintf(error, error_size,
			"%s: the ticket secret needs at least %d bytes; make one with: openssl rand -hex 32", path,
			SECRET_MIN_BYTES);
		mem_burn(buf, SECRET_MAX_BYTES + 1);
		mem_free(buf);
		return NULL;
	}
	if (mode & S_IROTH)
		log_warning("%s: the ticket secret is readable for everybody; chmod o= %s", path, path);
	return buf;
}

static void forget_secret(char *secret)
{
	if (secret != NULL)
		mem_burn(secret, SECRET_MAX_BYTES + 1);
	mem_free(secret);
}

static void tickets_free(struct tls_tickets *t)
{
	(void)pthread_rwlock_destroy(&t->lock);
	forget_secret(t->from.secret);
	OBJ_FINI(t);
	mem_burn(t, sizeof *t);
	mem_free(t);
}

struct tls_tickets *tls_tickets_new(const char *secret_path, unsigned lifetime_ms, char *error, size_t error_size)
{
	struct tls_tickets *t = mem_alloc(sizeof *t);

	if (t == NULL || pthread_rwlock_init(&t->lock, NULL) != 0) {
		(void)snprintf(error, error_size, "out of memory");
		mem_free(t);
		return NULL;
	}
	OBJ_INIT(t, TICKETS_MAGIC);
	atomic_init(&t->refs, 1);
	t->from.current = RING;
	if (!tls_tickets_reload(t, secret_path, lifetime_ms, error, error_size)) {
		tickets_free(t);
		return NULL;
	}
	return t;
}

struct tls_tickets *tls_tickets_ref(struct tls_tickets *t)
{
	OBJ_CHECK(t, TICKETS_MAGIC);
	(void)atomic_fetch_add(&t->refs, 1);
	return t;
}

void tls_tickets_unref(struct tls_tickets *t)
{
	if (t == NULL)
		return;
	OBJ_CHECK(t, TICKETS_MAGIC);
	if (atomic_fetch_sub(&t->refs, 1) == 1)
		tickets_free(t);
}

/* Same lifetime, same secret, or no secret both times. */
static bool same_source(const struct source *a, const struct source *b)
{
	return a->lifetime_s == b->lifetime_s && (a->secret == NULL) == (b->secret == NULL) &&
		a->secret_size == b->secret_size &&
		(a->secret == NULL || CRYPTO_memcmp(a->secret, b->secret, a->secret_size) == 0);
}

bool tls_tickets_reload(struct tls_tickets *t, const char *secret_path, unsigned lifetime_ms, char *error,
	size_t error_size)
{
	struct source fresh = { .lifetime_s = lifetime_ms / 1000, .current = RING }, before;
	bool ok = true;

	OBJ_CHECK(t, TICKETS_MAGIC);
	if (fresh.lifetime_s < LIFETIME_LEAST_S)
		fresh.lifetime_s = LIFETIME_LEAST_S;
	if (secret_path != NULL) {
		fresh.secret = read_secret(secret_path, &fresh.secret_size, error, error_size);
		if (fresh.secret == NULL)
			return false;
	}
	(void)pthread_rwlock_wrlock(&t->lock);
	before = fresh; /* what is forgotten below */
	if (!same_source(&t->from, &fresh)) {
		before = t->from;
		t->from = fresh;
		move_on(t);
		ok = t->from.current != RING;
		if (!ok) {
			t->from = before;
			before = fresh;
		}
	}
	leave(t);
	forget_secret(before.secret);
	if (!ok)
		(void)snprintf(error, error_size, "OpenSSL could not make a session ticket key");
	return ok;
}
