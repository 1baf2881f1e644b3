/* Names that leave the proxy: ids of accesses, and files of users.
 *
 * An id is a ULID: 48 bits of milliseconds and 80 bits that are random once for each thread and counted up from there,
 * so that an id costs no system call but the clock's, and ids of one thread within one millisecond stay in order. */
#include "adit/audit/audit.h"

#include "adit/base/clock.h"

#include <openssl/sha.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
	ID_BACK_MS = 1000, /* smaller steps of the clock backwards do not show in ids */
	NAME_WHOLE_MAX = 192, /* bytes of an escaped name that needs no hash */
	NAME_CUT = 120,
	NAME_HASH_BYTES = 16,
};

struct id_state {
	unsigned epoch; /* differs from id_epoch: not seeded, or inherited by a forked child */
	uint64_t last_ms;
	uint16_t high;
	uint64_t low;
};

static _Thread_local struct id_state id_state;
static _Atomic unsigned id_epoch = 1;
static pthread_once_t id_once = PTHREAD_ONCE_INIT;

static void id_on_fork(void)
{
	atomic_fetch_add(&id_epoch, 1);
}

static void id_watch_forks(void)
{
	pthread_atfork(NULL, NULL, id_on_fork);
}

static void id_seed(struct id_state *s)
{
	pthread_once(&id_once, id_watch_forks);
	/* Without chance two nodes would make the same ids; the kernel's generator has no reason to fail. */
	ADIT_ASSERT(getentropy(&s->high, sizeof(s->high)) == 0 && getentropy(&s->low, sizeof(s->low)) == 0);
	s->epoch = atomic_load(&id_epoch);
}

void audit_id(char out[static AUDIT_ID_SIZE])
{
	static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	struct id_state *s = &id_state;
	uint64_t now = (uint64_t)(clock_wall_us() / 1000), high, low;

	if (s->epoch != atomic_load_explicit(&id_epoch, memory_order_relaxed))
		id_seed(s);
	if (now < s->last_ms && s->last_ms - now < ID_BACK_MS)
		now = s->last_ms;
	s->last_ms = now;
	if (++s->low == 0)
		s->high++;

	high = (now & 0xffffffffffffu) << 16 | s->high;
	low = s->low;
	for (int i = AUDIT_ID_SIZE - 2; i >= 0; i--) {
		out[i] = alphabet[low & 31];
		low = low >> 5 | high << 59;
		high >>= 5;
	}
	out[AUDIT_ID_SIZE - 1] = '\0';
}

/* A leading '.' would hide the file, a leading '-' look like an option to `rm *`. */
static bool name_byte_is_safe(unsigned char c, bool first)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '@' || c == '+')
		return true;
	return !first && (c == '.' || c == '-');
}

/* Every byte of user has one form, so two users never have one name: '%' is escaped, and stands for itself nowhere but
 * before a hash. */
const char *audit_file_name(const char *user, char out[static AUDIT_FILE_NAME_SIZE])
{
	static const char hex[] = "0123456789ABCDEF";
	static const char suffix[] = ".jsonl";
	unsigned char digest[SHA256_DIGEST_LENGTH];
	size_t n = 0, cut = 0;
	const char *p = user;

	for (; *p && n <= NAME_WHOLE_MAX; p++) {
		unsigned char c = (unsigned char)*p;

		if (name_byte_is_safe(c, p == user)) {
			out[n++] = (char)c;
		} else {
			out[n++] = '%';
			out[n++] = hex[c >> 4];
			out[n++] = hex[c & 15];
		}
		if (n <= NAME_CUT)
			cut = n;
	}
	if (n > NAME_WHOLE_MAX) {
		if (!SHA256((const unsigned char *)user, strlen(user), digest))
			return NULL;
		n = cut;
		out[n++] = '%';
		out[n++] = '-';
		for (int i = 0; i < NAME_HASH_BYTES; i++) {
			out[n++] = hex[digest[i] >> 4];
			out[n++] = hex[digest[i] & 15];
		}
	} else if (n == 0) {
		out[n++] = '%';
	}
	memcpy(out + n, suffix, sizeof(suffix));
	return out;
}
