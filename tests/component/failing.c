/* The functions below carry the libraries' names, and an executable's own functions come first; what does not fail goes on
 * to the function that is next in line. */
#include "component/failing.h"

#include <crypt.h>
#include <dlfcn.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *_Atomic only;
static atomic_ulong countdown;
static atomic_int errno_then;
static atomic_bool hit;

void failing_set(const char *call, unsigned long nth, int error)
{
	atomic_store(&countdown, 0);
	atomic_store(&only, call);
	atomic_store(&errno_then, error);
	atomic_store(&hit, false);
	atomic_store(&countdown, nth);
}

bool failing_hit(void)
{
	return atomic_load(&hit);
}

static bool fails_now(const char *call)
{
	unsigned long n = atomic_load(&countdown);
	const char *name = atomic_load(&only);

	if (n == 0 || (name && strcmp(name, call) != 0))
		return false;
	while (n > 0 && !atomic_compare_exchange_weak(&countdown, &n, n - 1))
		;
	if (n != 1)
		return false;
	atomic_store(&hit, true);
	errno = atomic_load(&errno_then);
	return true;
}

#define CALL(type, name, parameters, arguments, failure)                      \
	type name parameters                                                  \
	{                                                                     \
		union { void *found; type (*call) parameters; } next;         \
		if (fails_now(#name))                                         \
			return failure;                                       \
		next.found = dlsym(RTLD_NEXT, #name);                         \
		return next.call arguments;                                   \
	}

/* the kernel */
CALL(ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), -1)
CALL(int, fstat, (int fd, struct stat *st), (fd, st), -1)
CALL(int, sched_getaffinity, (pid_t pid, size_t n, cpu_set_t *set), (pid, n, set), -1)

/* libcrypt */
CALL(char *, crypt_r, (const char *phrase, const char *setting, struct crypt_data *data), (phrase, setting, data), NULL)
CALL(int, crypt_checksalt, (const char *setting), (setting), CRYPT_SALT_INVALID)
CALL(char *, crypt_gensalt_rn, (const char *prefix, unsigned long count, const char *bytes, int n, char *to, int size),
	(prefix, count, bytes, n, to, size), NULL)

/* libcrypto */
CALL(int, RAND_priv_bytes, (unsigned char *to, int n), (to, n), 0)
CALL(EVP_MD_CTX *, EVP_MD_CTX_new, (void), (), NULL)
CALL(int, EVP_DigestInit_ex, (EVP_MD_CTX *md, const EVP_MD *type, ENGINE *engine), (md, type, engine), 0)
CALL(int, EVP_DigestUpdate, (EVP_MD_CTX *md, const void *text, size_t n), (md, text, n), 0)
CALL(int, EVP_DigestFinal_ex, (EVP_MD_CTX *md, unsigned char *to, unsigned *n), (md, to, n), 0)
CALL(int, EVP_Digest, (const void *text, size_t n, unsigned char *to, unsigned *size, const EVP_MD *type, ENGINE *engine),
	(text, n, to, size, type, engine), 0)
CALL(EVP_MAC *, EVP_MAC_fetch, (OSSL_LIB_CTX *library, const char *name, const char *properties),
	(library, name, properties), NULL)
CALL(EVP_MAC_CTX *, EVP_MAC_CTX_new, (EVP_MAC *mac), (mac), NULL)
CALL(EVP_MAC_CTX *, EVP_MAC_CTX_dup, (const EVP_MAC_CTX *from), (from), NULL)
CALL(int, EVP_MAC_init, (EVP_MAC_CTX *mac, const unsigned char *key, size_t n, const OSSL_PARAM *params),
	(mac, key, n, params), 0)
CALL(int, EVP_MAC_update, (EVP_MAC_CTX *mac, const unsigned char *text, size_t n), (mac, text, n), 0)
CALL(int, EVP_MAC_final, (EVP_MAC_CTX *mac, unsigned char *to, size_t *n, size_t size), (mac, to, n, size), 0)
