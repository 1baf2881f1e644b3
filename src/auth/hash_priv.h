/* Hashes of one htpasswd line: telling the kinds apart, and checking with a third answer besides yes and no. */
#ifndef ADIT_AUTH_HASH_PRIV_H
#define ADIT_AUTH_HASH_PRIV_H

#include "adit/auth/users.h"

/* FAILED: the library could not do it (memory): neither right nor wrong, so nothing may be remembered. */
enum hash_verdict { HASH_WRONG, HASH_RIGHT, HASH_FAILED };

/* What libcrypt takes: longer passwords are wrong for its kinds (APR1 and SHA1 take any length). */
enum { HASH_CRYPT_PASSWORD_MAX = 511, HASH_BCRYPT_PASSWORD_MAX = 72 };

/* The kind and cost of the text behind the colon, every length and alphabet checked. NULL when `user` is filled;
 * else a sentence that says what is wrong and what to do. */
const char *hash_recognise(struct slice text, struct user *user);

enum hash_verdict hash_check(const struct user *user, const char *password, size_t n);

/* Apache's own kinds (apache.c), which libcrypt has not. False only when the library fails. */
enum { APACHE_APR1_TEXT = 22, APACHE_SHA1_TEXT = 28 };
bool apache_apr1(const char *password, size_t n, struct slice salt, char out[static APACHE_APR1_TEXT + 1]);
bool apache_sha1(const char *password, size_t n, char out[static APACHE_SHA1_TEXT + 1]);

#endif
