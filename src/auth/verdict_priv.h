/* What is already known about a pair of credentials, so that it needs no hash. Not thread-safe: a shard's own. */
#ifndef ADIT_AUTH_VERDICT_PRIV_H
#define ADIT_AUTH_VERDICT_PRIV_H

#include "adit/auth/users.h"

#include <stdint.h>

enum { VERDICT_KEY_BYTES = 32 };

/* Born at start-up, burned at the end; without it neither a cache nor a core gives a password away. */
struct evp_mac_ctx_st;
struct verdict_secret { struct evp_mac_ctx_st *keyed; };
struct verdict_key { uint8_t bytes[VERDICT_KEY_BYTES]; };

bool verdict_secret_make(struct verdict_secret *secret);
void verdict_secret_burn(struct verdict_secret *secret); /* also of a zeroed one */
/* HMAC over user, password and the user's line (NULL: no such user), so that a changed line makes every older verdict
 * unreachable. bcrypt looks at 72 bytes only, and so does the key of such a line: one right password has one key.
 * False only when the library fails. */
bool verdict_key(const struct verdict_secret *secret, struct slice user, struct slice password, const struct user *line,
	struct verdict_key *out);
/* The line whose hash an unknown user's password pays for; NULL when there are no lines or the library fails. */
const struct user *verdict_decoy(const struct verdict_secret *secret, const struct users *users, struct slice name);

struct verdicts;
struct verdicts *verdicts_new(size_t entries) ADIT_MUST_USE;
void verdicts_free(struct verdicts *v);
/* Keeps what fits, the newest first. False: out of memory, nothing changed. */
bool verdicts_resize(struct verdicts *v, size_t entries);

enum verdict { VERDICT_NONE, VERDICT_RIGHT, VERDICT_WRONG };
struct verdict_ttl { unsigned right_ms, wrong_ms; };
/* What is remembered and not older than its ttl. */
enum verdict verdicts_get(struct verdicts *v, const struct verdict_key *key, struct verdict_ttl ttl, uint64_t now_ms);
/* Forgets silently when out of memory: a verdict less is a hash more. */
void verdicts_put(struct verdicts *v, const struct verdict_key *key, bool right, uint64_t now_ms);

#endif
