/* Who is it? Basic credentials against an htpasswd file, without a hash on any event loop.
 *
 * One service for the process, called from every worker. Locks are sharded and held for a look-up only. What needs no
 * hash is answered at once: cached right and wrong verdicts, throttled clients, passwords over 512 bytes. The rest
 * waits in a bounded queue, fair by client prefix, for a small pool of threads; equal (user, password) pairs share one
 * hash. */
#ifndef ADIT_AUTH_AUTH_H
#define ADIT_AUTH_AUTH_H

#include "adit/auth/users.h"
#include "adit/base/addr.h"
#include "adit/base/reason.h"
#include "adit/conf/conf.h"
#include "adit/loop/loop.h"

enum { CREDENTIALS_USER_MAX = 255, CREDENTIALS_PASSWORD_MAX = 512 };

/* Lives on the stack or in the request until the check is done: credentials_burn it as soon as auth_check returned. */
struct credentials {
	char user[CREDENTIALS_USER_MAX + 1];
	char password[CREDENTIALS_PASSWORD_MAX + 2]; /* one more than allowed: overlong stays visibly overlong */
	size_t user_n, password_n;
};

/* The value of a Proxy-Authorization field (RFC 7617; the scheme's case does not matter): REASON_OK, or
 * REASON_AUTH_MALFORMED (not Basic, not base64, no colon, control characters, user empty or too long). A user name must
 * be valid for records: no control characters. Passwords beyond the limit decode with password_n = limit + 1. Pure. */
enum reason basic_decode(struct slice field_value, struct credentials *out) ADIT_MUST_USE;
void credentials_burn(struct credentials *c);

struct auth;
struct auth_job;

/* Starts the threads. `users` is taken over (a reference), also when it fails. NULL: out of memory or threads. */
struct auth *auth_new(const struct conf *conf, struct users *users) ADIT_MUST_USE;
/* Ends the threads; jobs still waiting are answered REASON_AUTH_ERROR through their loops. */
void auth_stop(struct auth *auth);
void auth_free(struct auth *auth); /* after auth_stop and after every loop has emptied its mailbox */
/* New users (taken over) and settings: cached verdicts of users whose line did not change stay, so does what the
 * throttle has counted; hashes under way are judged by the new lines. `threads` needs a restart. From any thread. */
void auth_reconfigure(struct auth *auth, const struct conf *conf, struct users *users);

/* Is there such a user in the file in force? From any thread. */
bool auth_knows(struct auth *auth, struct slice user);

/* `retry_after_s` is set for REASON_AUTH_THROTTLED. */
typedef void auth_done_fn(void *ctx, enum reason verdict, unsigned retry_after_s);

/* Copies what it needs of `c`. Either the verdict at once (*job = NULL, *retry_after_s set) or *job, and done(ctx, ...)
 * later on `loop`'s thread, never from inside this call; the value returned beside a job is no verdict (and never
 * REASON_OK). Called on the loop's thread; a job holds the loop. Verdicts: REASON_OK, AUTH_FAILED, AUTH_THROTTLED,
 * AUTH_BUSY, AUTH_ERROR, NO_MEMORY. */
enum reason auth_check(struct auth *auth, struct loop *loop, const struct credentials *c, const struct addr *client,
	auth_done_fn *done, void *ctx, struct auth_job **job, unsigned *retry_after_s) ADIT_MUST_USE;
/* No done for this job any more; its hash may still run and fill the cache. On the loop's thread, before done. NULL is
 * fine. */
void auth_cancel(struct auth_job *job);

#endif
