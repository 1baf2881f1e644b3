/* How many distinct wrong passwords may be tried, and where users are known from. Thread-safe, sharded.
 *
 * A budget of N failures in a window is a bucket: N may come at once, and it drains evenly, so that one more is allowed
 * every window/N. There are three:
 *   pair    `failures` in `window`, per (prefix, user)
 *   prefix  `per_prefix`, for all users together: one password tried on many names
 *   user    THROTTLE_USER_FAILURES times `failures` in THROTTLE_USER_WINDOW times `window`, over all prefixes: many
 *           clients on one name. Half the pace of a single pair; a (prefix, user) with an earlier success neither pays
 *           into it nor is held up by it, so that a botnet can not lock a user out of the places they work from.
 * A password counts once per (prefix, user) however often it is repeated, as long as it is among the last
 * THROTTLE_REMEMBERED different ones; browsers repeat theirs in storms. Prefixes are IPv4 /32 and IPv6 /64. */
#ifndef ADIT_AUTH_THROTTLE_PRIV_H
#define ADIT_AUTH_THROTTLE_PRIV_H

#include "adit/base/addr.h"
#include "adit/base/obj.h"
#include "adit/conf/conf.h"

enum { THROTTLE_USER_FAILURES = 10, THROTTLE_USER_WINDOW = 20, THROTTLE_REMEMBERED = 8 };

struct throttle_rules {
	bool on;
	unsigned failures, window_ms;
	struct conf_rate per_prefix;
};

/* Who tries: known is "succeeded from this prefix in the last 30 days". */
struct throttle_who {
	struct cidr prefix;
	struct slice user;
	bool known;
};

struct throttle;
struct throttle *throttle_new(size_t entries) ADIT_MUST_USE;
void throttle_free(struct throttle *t);

/* 0: go on. Else over budget: seconds until one more attempt is allowed. */
unsigned throttle_check(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *who,
	uint64_t now_ms);
/* A wrong password; `digest` names it. */
void throttle_charge(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *who,
	uint64_t digest, uint64_t now_ms);

/* --- known.c: the last KNOWN_PREFIXES prefixes from which each user succeeded --- */
enum { KNOWN_PREFIXES = 32, KNOWN_DAYS = 30 };

struct known;
struct known *known_new(size_t users) ADIT_MUST_USE;
void known_free(struct known *k);
void known_note(struct known *k, const struct cidr *prefix, struct slice user, uint64_t now_ms);
bool known_is(struct known *k, const struct cidr *prefix, struct slice user, uint64_t now_ms);

#endif
