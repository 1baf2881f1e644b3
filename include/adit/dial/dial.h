/* Happy eyeballs (RFC 8305) over addresses that were already checked: yields one connected socket. Never resolves. */
#ifndef ADIT_DIAL_DIAL_H
#define ADIT_DIAL_DIAL_H

#include "adit/base/addr.h"
#include "adit/base/reason.h"
#include "adit/conf/conf.h"
#include "adit/loop/loop.h"

struct dial;

/* fd >= 0 and the address connected to on REASON_OK; fd is the callee's from then on (non-blocking, close-on-exec,
 * TCP_NODELAY, keepalive on). Otherwise fd = -1 and the most telling of the attempts' reasons and its address:
 * refused, reset, NO_DESCRIPTORS, NO_MEMORY, the source address, timeout, another failure, unreachable (in this
 * order). */
typedef void dial_done_fn(void *ctx, enum reason verdict, int fd, const struct addr *address);

/* Families alternate, IPv6 first (RFC 8305 4); the next attempt starts after 250 ms or as soon as the last one failed;
 * each ends after deadlines.dial_address. The whole's deadline is the caller's. `addresses` (at least one) is copied,
 * ports set. NULL: out of memory. done is never called from inside this call. */
struct dial *dial_start(struct loop *loop, const struct conf *conf, const struct addr *addresses, size_t count,
	dial_done_fn *done, void *ctx) ADIT_MUST_USE;
/* Closes the attempts, no done, frees. Only before done: when done is called the handle is gone already. */
void dial_cancel(struct dial *dial);
/* What the attempts so far ran into, for the caller's own deadline: DIAL_TIMEOUT when nothing more telling is known. */
enum reason dial_failure(const struct dial *dial, struct addr *address);

#endif
