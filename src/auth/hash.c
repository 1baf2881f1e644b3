/* The kinds of hash an htpasswd line may hold: recognised strictly when the file is read, checked on pool threads.
 *
 * Hard part: what is refused at reading can not surprise at login. So lengths, alphabets and costs are checked here to
 * the last character, and a line whose single check would outlast the login's deadline, or take the machine's memory,
 * is refused as an error and not discovered as an outage. */
#include "auth/hash_priv.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"

#include <crypt.h>
#include <errno.h>
#include <openssl/crypto.h>

enum {
	BCRYPT_TEXT = 60, BCRYPT_SALT_AT = 7, BCRYPT_COST_MIN = 4, BCRYPT_COST_MAX = 18,
	SHA_SALT_MAX = 16, SHA_ROUNDS_DEFAULT = 5000, SHA_ROUNDS_MIN = 1000, SHA_ROUNDS_MAX = 20000000,
	MD5_SALT_MAX = 8,
	YESCRYPT_SALT_MAX = 86, YESCRYPT_HASH = 43, YESCRYPT_MEMORY_LOG2_MAX = 28, /* 256 MiB */
	/* of new lines; about a tenth of a second for bcrypt, less for the others */
	NEW_BCRYPT_COST = 11, NEW_YESCRYPT_COST = 5, NEW_SHA_ROUNDS = 100000,
	BURN_STACK_BYTES = 96 * 1024,
};

#define RENEW "set the password anew: adit passwd FILE USER"

const char *hash_kind_name(enum hash_kind kind)
{
	static const char *const names[HASH_KIND_COUNT] = {
		[HASH_BCRYPT] = "bcrypt", [HASH_YESCRYPT] = "yescrypt", [HASH_SHA512] = "sha512", [HASH_SHA256] = "sha256",
		[HASH_MD5] = "md5", [HASH_APR1] = "apr1", [HASH_SHA1] = "sha1",
	};

	ADIT_ASSERT((unsigned)kind < HASH_KIND_COUNT);
	return names[kind];
}

/* --- reading a line -------------------------------------------------------------------------------------------- */

/* Index in crypt's alphabet "./0-9A-Za-z", or 64. */
static unsigned crypt_index(char c)
{
	if (c >= '.' && c <= '9')
		return (unsigned)(c - '.');
	if (c >= 'A' && c <= 'Z')
		return (unsigned)(c - 'A') + 12;
	if (c >= 'a' && c <= 'z')
		return (unsigned)(c - 'a') + 38;
	return 64;
}

static bool is_crypt_text(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (crypt_index(s.p[i]) > 63)
			return false;
	return true;
}

static struct slice from(struct slice s, size_t at)
{
	ADIT_ASSERT(at <= s.n);
	return (struct slice){ s.p + at, s.n - at };
}

/* Everything up to the next '$', which is taken off `s` as well; false when there is none. */
static bool take_part(struct slice *s, struct slice *part)
{
	const char *end = s->n ? memchr(s->p, '$', s->n) : NULL;

	if (!end)
		return false;
	*part = (struct slice){ s->p, (size_t)(end - s->p) };
	*s = from(*s, part->n + 1);
	return true;
}

/* Whatever libcrypt takes as salt, less what would break the line or a terminal. */
static bool is_salt(struct slice s, size_t max)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == ':')
			return false;
	return s.n <= max;
}

static const char *recognise_bcrypt(struct slice text, struct user *user)
{
	unsigned long long cost;

	if (text.n != BCRYPT_TEXT)
		return "a bcrypt hash has 60 characters, this one has more or fewer (white space at its end?); " RENEW;
	if (text.p[6] != '$' || !slice_to_u64((struct slice){ text.p + 4, 2 }, 99, &cost) || cost < BCRYPT_COST_MIN ||
		cost > 31)
		return "the cost of the bcrypt hash is not a number from 04 to 31; " RENEW;
	if (cost > BCRYPT_COST_MAX)
		return "the cost of the bcrypt hash is above 18: one check takes longer than any login waits; " RENEW;
	if (!is_crypt_text(from(text, BCRYPT_SALT_AT)))
		return "the bcrypt hash has a character that no bcrypt hash has; " RENEW;
	user->kind = HASH_BCRYPT;
	user->cost = (unsigned)cost;
	return NULL;
}

/* yescrypt's variable-length numbers, as far as sane parameters need them: one or two characters, of which the first
 * 48 stand for themselves. */
static bool take_number(struct slice *s, unsigned *out)
{
	unsigned first = s->n > 0 ? crypt_index(s->p[0]) : 64, second;

	if (first < 48) {
		*out = first;
		*s = from(*s, 1);
		return true;
	}
	second = s->n > 1 ? crypt_index(s->p[1]) : 64;
	if (first >= 56 || second > 63)
		return false;
	*out = 48 + (first - 48) * 64 + second;
	*s = from(*s, 2);
	return true;
}

static const char *recognise_yescrypt(struct slice text, struct user *user)
{
	struct slice params, salt, rest = from(text, 3);
	unsigned flavour, n_log2, r;

	if (!take_part(&rest, &params) || !take_part(&rest, &salt) || salt.n == 0 || salt.n > YESCRYPT_SALT_MAX ||
		!is_crypt_text(salt) || rest.n != YESCRYPT_HASH || !is_crypt_text(rest))
		return "the yescrypt hash is not $y$parameters$salt$43 characters (white space at its end?); " RENEW;
	if (!take_number(&params, &flavour) || !take_number(&params, &n_log2) || !take_number(&params, &r) || params.n > 0)
		return "the yescrypt hash has parameters besides flavour, N and r, which are not served here; " RENEW;
	n_log2 += 1;
	r += 1;
	/* 128 * r * N bytes */
	if (n_log2 > YESCRYPT_MEMORY_LOG2_MAX - 7 || (uint64_t)r << (n_log2 + 7) > (uint64_t)1 << YESCRYPT_MEMORY_LOG2_MAX)
		return "the yescrypt hash needs more than 256 MiB of memory for one check; " RENEW;
	user->kind = HASH_YESCRYPT;
	user->cost = n_log2;
	return NULL;
}

static const char *recognise_sha(struct slice text, struct user *user, enum hash_kind kind)
{
	static const struct slice word = { "rounds=", 7 };
	struct slice salt, rest = from(text, 3);
	unsigned long long rounds = SHA_ROUNDS_DEFAULT;

	if (rest.n > word.n && memcmp(rest.p, word.p, word.n) == 0) {
		struct slice number;

		if (!take_part(&rest, &number) || number.p[word.n] == '0' ||
			!slice_to_u64(from(number, word.n), 999999999, &rounds) || rounds < SHA_ROUNDS_MIN)
			return "the rounds of the SHA-crypt hash are not a number from 1000 to 999999999; " RENEW;
		if (rounds > SHA_ROUNDS_MAX)
			return "the SHA-crypt hash has over 20000000 rounds: one check takes longer than any login waits; " RENEW;
	}
	if (!take_part(&rest, &salt) || !is_salt(salt, SHA_SALT_MAX) || rest.n != (kind == HASH_SHA512 ? 86 : 43) ||
		!is_crypt_text(rest))
		return "the SHA-crypt hash is not $5$ or $6$, a salt of up to 16 characters, $, and 43 or 86 characters "
		       "(white space at its end?); " RENEW;
	user->kind = kind;
	user->cost = (unsigned)rounds;
	return NULL;
}

static const char *recognise_md5(struct slice text, struct user *user, enum hash_kind kind, size_t at)
{
	struct slice salt, rest = from(text, at);

	if (!take_part(&rest, &salt) || salt.n == 0 || !is_salt(salt, MD5_SALT_MAX) || rest.n != 22 || !is_crypt_text(rest))
		return "the MD5-crypt hash is not $1$ or $apr1$, a salt of up to 8 characters, $, and 22 characters "
		       "(white space at its end?); " RENEW;
	user->kind = kind;
	user->cost = 0;
	return NULL;
}

static const char *recognise_sha1(struct slice text, struct user *user)
{
	struct slice rest = from(text, 5);
	bool ok = rest.n == APACHE_SHA1_TEXT && rest.p[27] == '=';

	for (size_t i = 0; ok && i < 27; i++)
		ok = crypt_index(rest.p[i]) < 64 ? rest.p[i] != '.' : rest.p[i] == '+';
	if (!ok)
		return "the {SHA} hash is not 28 characters of base64 (white space at its end?); " RENEW;
	user->kind = HASH_SHA1;
	user->cost = 0;
	return NULL;
}

static const char *refuse_unknown(struct slice text)
{
	if (text.n == 0)
		return "no hash stands behind the colon; " RENEW;
	if (text.n == 13 && is_crypt_text(text))
		return "this is a DES-crypt hash (it tells only 8 characters of a password apart) or plain text, neither is "
		       "served; " RENEW;
	if (text.p[0] == '_' && text.n == 20 && is_crypt_text(from(text, 1)))
		return "this is a DES-crypt hash of the extended kind, which is not served; " RENEW;
	if (text.p[0] == '$' || text.p[0] == '{')
		return "the hash is of a kind that is not served (bcrypt, yescrypt, SHA-crypt, $1$, $apr1$ and {SHA} "
		       "are); " RENEW;
	return "this is no hash but seems to be a password in plain text, which is not served; " RENEW;
}

static bool has_prefix(struct slice s, const char *prefix)
{
	size_t n = strlen(prefix);

	return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

static const char *recognise(struct slice text, struct user *user)
{
	if (has_prefix(text, "$2y$") || has_prefix(text, "$2b$") || has_prefix(text, "$2a$"))
		return recognise_bcrypt(text, user);
	if (has_prefix(text, "$y$"))
		return recognise_yescrypt(text, user);
	if (has_prefix(text, "$6$"))
		return recognise_sha(text, user, HASH_SHA512);
	if (has_prefix(text, "$5$"))
		return recognise_sha(text, user, HASH_SHA256);
	if (has_prefix(text, "$1$"))
		return recognise_md5(text, user, HASH_MD5, 3);
	if (has_prefix(text, "$apr1$"))
		return recognise_md5(text, user, HASH_APR1, 6);
	if (has_prefix(text, "{SHA}"))
		return recognise_sha1(text, user);
	return refuse_unknown(text);
}

static bool is_libcrypts(enum hash_kind kind)
{
	return kind != HASH_APR1 && kind != HASH_SHA1;
}

const char *hash_recognise(struct slice text, struct user *user)
{
	const char *wrong = recognise(text, user);
	char setting[CRYPT_OUTPUT_SIZE];
	int salt;

	if (wrong || !is_libcrypts(user->kind))
		return wrong;
	/* Every accepted form is much shorter. A libcrypt may be built without some of its kinds. */
	memcpy(setting, text.p, text.n);
	setting[text.n] = '\0';
	salt = crypt_checksalt(setting);
	mem_burn(setting, sizeof(setting));
	if (salt == CRYPT_SALT_INVALID || salt == CRYPT_SALT_METHOD_DISABLED)
		return "this system's libcrypt can not check this kind of hash; " RENEW;
	return NULL;
}

/* --- checking -------------------------------------------------------------------------------------------------- */

static enum hash_verdict compare(const char *expected, const char *got)
{
	size_t n = strlen(expected);

	return strlen(got) == n && CRYPTO_memcmp(expected, got, n) == 0 ? HASH_RIGHT : HASH_WRONG;
}

static enum hash_verdict check_libcrypt(const struct user *user, const char *password, size_t n)
{
	struct crypt_data data;
	enum hash_verdict verdict;
	const char *got;

	if (n > HASH_CRYPT_PASSWORD_MAX)
		return HASH_WRONG;
	memset(&data, 0, sizeof(data));
	errno = 0;
	got = crypt_r(password, user->hash, &data);
	if (got && got[0] != '*')
		verdict = compare(user->hash, got);
	else
		verdict = HASH_FAILED; /* the line was found good when it was read: this is want of memory */
	mem_burn(&data, sizeof(data));
	return verdict;
}

static enum hash_verdict check_apr1(const struct user *user, const char *password, size_t n)
{
	struct slice salt, rest = from(slice_of(user->hash), 6);
	char text[APACHE_APR1_TEXT + 1];
	enum hash_verdict verdict = HASH_FAILED;

	ADIT_ASSERT(take_part(&rest, &salt));
	if (apache_apr1(password, n, salt, text))
		verdict = compare(rest.p, text);
	mem_burn(text, sizeof(text));
	return verdict;
}

static enum hash_verdict check_sha1(const struct user *user, const char *password, size_t n)
{
	char text[APACHE_SHA1_TEXT + 1];
	enum hash_verdict verdict = HASH_FAILED;

	if (apache_sha1(password, n, text))
		verdict = compare(user->hash + 5, text);
	mem_burn(text, sizeof(text));
	return verdict;
}

/* The frames below ours, where a compression function may have left a block of the password: libcrypt's MD5 was seen
 * to. Deeper than any of the kinds goes. */
static __attribute__((noinline)) void burn_stack(void)
{
	unsigned char frames[BURN_STACK_BYTES];

	mem_burn(frames, sizeof(frames));
}

enum hash_verdict hash_check(const struct user *user, const char *password, size_t n)
{
	enum hash_verdict verdict;

	ADIT_ASSERT(password[n] == '\0' && memchr(password, '\0', n) == NULL);
	switch (user->kind) {
	case HASH_APR1:
		verdict = check_apr1(user, password, n);
		break;
	case HASH_SHA1:
		verdict = check_sha1(user, password, n);
		break;
	default:
		verdict = check_libcrypt(user, password, n);
	}
	burn_stack();
	return verdict;
}

bool hash_verify(const struct user *user, const char *password, size_t n)
{
	return hash_check(user, password, n) == HASH_RIGHT;
}

/* --- making ---------------------------------------------------------------------------------------------------- */

bool hash_make(enum hash_kind kind, const char *password, char out[static 512])
{
	char setting[CRYPT_GENSALT_OUTPUT_SIZE];
	struct crypt_data data;
	const char *prefix, *got;
	unsigned long count;
	bool ok;

	switch (kind) {
	case HASH_BCRYPT:
		prefix = "$2y$", count = NEW_BCRYPT_COST; /* what Apache writes and, unlike $2b$, surely reads */
		break;
	case HASH_YESCRYPT:
		prefix = "$y$", count = NEW_YESCRYPT_COST;
		break;
	case HASH_SHA512:
		prefix = "$6$", count = NEW_SHA_ROUNDS;
		break;
	default:
		errno = EINVAL;
		return false;
	}
	if (!crypt_gensalt_rn(prefix, count, NULL, 0, setting, sizeof(setting)))
		return false;
	memset(&data, 0, sizeof(data));
	got = crypt_r(password, setting, &data);
	ok = got && got[0] != '*';
	if (ok)
		memcpy(out, got, strlen(got) + 1);
	mem_burn(&data, sizeof(data));
	return ok;
}

unsigned hash_cost_ms(const struct user *user)
{
	static const char sample[] = "a password of average length";
	uint64_t began = clock_mono_us();

	(void)hash_check(user, sample, sizeof(sample) - 1);
	return (unsigned)((clock_mono_us() - began + 999) / 1000);
}
