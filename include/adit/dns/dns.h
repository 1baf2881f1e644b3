/* Names to addresses with c-ares, one channel per loop: cancellable, cached by TTL, equal questions share one query. */
#ifndef ADIT_DNS_DNS_H
#define ADIT_DNS_DNS_H

#include "adit/base/addr.h"
#include "adit/base/reason.h"
#include "adit/conf/conf.h"
#include "adit/loop/loop.h"

enum { DNS_ADDRESSES_MAX = 16 }; /* of one name; more are left out */

struct dns_result {
	struct addr addr[DNS_ADDRESSES_MAX]; /* families alternate, IPv6 first; within one in the servers' order; port 0 */
	size_t count;
};

/* /etc/hosts as an immutable snapshot, reference-counted: read by the main thread, used by every worker. */
struct dns_hosts;
struct dns_hosts *dns_hosts_load(const char *path) ADIT_MUST_USE; /* a missing file is an empty one; NULL: no memory */
struct dns_hosts *dns_hosts_ref(struct dns_hosts *hosts);
void dns_hosts_unref(struct dns_hosts *hosts);

struct dns;
struct dns_query;

/* `hosts` (may be NULL) is taken over, also on failure. NULL: out of memory, or c-ares cannot start. */
struct dns *dns_new(struct loop *loop, const struct conf *conf, struct dns_hosts *hosts) ADIT_MUST_USE;
void dns_free(struct dns *dns); /* no query may be pending, and not from inside a done */
/* The settings of conf, its servers or those of /etc/resolv.conf as it is now (a small file, read here), and `hosts`
 * (taken over; NULL keeps those in force). The cache is emptied; queries under way are answered by the old servers, for
 * their waiters only. False when out of memory: servers and settings stay. */
bool dns_reconfigure(struct dns *dns, const struct conf *conf, struct dns_hosts *hosts);

/* The result is valid during the call. The query is gone already when it is called; it may resolve and cancel. */
typedef void dns_done_fn(void *ctx, enum reason verdict, const struct dns_result *result);

/* `name` is canonical (struct host.text of a HOST_IS_NAME). Either the verdict at once (*query = NULL, *result filled
 * on REASON_OK), or REASON_OK with *query set and done(ctx, ...) later, never from inside this call. Verdicts:
 * REASON_OK, NAME_UNKNOWN, NAME_NO_ADDRESS, DNS_FAILED, DNS_TIMEOUT, DNS_BUSY, NO_MEMORY. The resolve deadline is the
 * caller's. IPv4 addresses that are there do not wait longer than 500 ms for the IPv6 answer (RFC 8305 3). */
enum reason dns_resolve(struct dns *dns, const char *name, dns_done_fn *done, void *ctx, struct dns_result *result,
	struct dns_query **query) ADIT_MUST_USE;
/* No done any more; the query under way goes on and fills the cache. */
void dns_cancel(struct dns_query *query);

#endif
