/* An htpasswd file in memory: immutable, reference-counted. And the hashes it may hold. */
#ifndef ADIT_AUTH_USERS_H
#define ADIT_AUTH_USERS_H

#include "adit/base/obj.h"
#include "adit/base/slice.h"
#include <stdio.h>

enum hash_kind {
	HASH_BCRYPT, HASH_YESCRYPT, HASH_SHA512, HASH_SHA256, HASH_MD5, HASH_APR1, HASH_SHA1, HASH_KIND_COUNT
};
const char *hash_kind_name(enum hash_kind kind);

struct user {
	char *name;
	char *hash; /* as in the file */
	enum hash_kind kind;
	unsigned cost; /* bcrypt, yescrypt: log2; sha*: rounds; else 0 */
	unsigned line;
};

struct users;

/* Parses text; on any bad line returns NULL after report(ctx, line, message) for each of them (bounded). DES-crypt and
 * plain text are refused by line, so are hashes whose one check would outlast a login's deadline, and a second line of
 * one user. Blank lines and '#' comments are skipped; CRLF is fine. */
typedef void users_report_fn(void *ctx, unsigned line, const char *message);
struct users *users_parse(struct slice text, users_report_fn *report, void *ctx) ADIT_MUST_USE;
/* Reads path (at most 64 MiB; line 0 in reports about the file itself). Never on an event loop. */
struct users *users_load(const char *path, users_report_fn *report, void *ctx) ADIT_MUST_USE;
struct users *users_ref(struct users *users);
void users_unref(struct users *users);

size_t users_count(const struct users *users);
const struct user *users_at(const struct users *users, size_t i); /* in file order */
const struct user *users_find(const struct users *users, struct slice name);

/* NULL when a user may be called so; else the sentence that says what is wrong with the name. */
const char *users_name_fault(struct slice name);

/* Does the password (NUL-free, n bytes) match this line? Hashes: takes long, pool threads only. Constant-time compare.
 * bcrypt looks at the first 72 bytes, as in Apache; libcrypt's kinds never match over 511 bytes. */
bool hash_verify(const struct user *user, const char *password, size_t n);
/* A new hash line for `adit passwd`; false with errno when the library cannot. `out` needs 512 bytes. */
bool hash_make(enum hash_kind kind, const char *password, char out[static 512]);
/* What one check of this line costs on this machine, in ms, measured by doing one: for `adit check`. */
unsigned hash_cost_ms(const struct user *user);

#endif
