/* Listening sockets, one per worker and address. */
#ifndef ADIT_SRC_SERVER_LISTENER_H
#define ADIT_SRC_SERVER_LISTENER_H

#include "adit/base/addr.h"
#include "adit/loop/loop.h"

/* Binds `copies` sockets to the address (port 0: all to one the kernel chooses, written back to it) into fds; they
 * listen. exclusive: nobody else may have the port, not even who shares it by SO_REUSEPORT. False with errno and a
 * sentence in error; nothing stays open then. `[::]` on a machine without IPv6 becomes 0.0.0.0. */
bool listener_bind(struct addr *address, int *fds, size_t copies, bool exclusive, char *error,
	size_t error_size) ADIT_MUST_USE;

struct listener;
typedef void listener_fn(void *ctx, int fd, const struct addr *peer);

/* Accepts on the loop; accept(ctx, ...) takes over each descriptor. Takes over fd on success. */
struct listener *listener_start(struct loop *loop, int fd, listener_fn *accept, void *ctx) ADIT_MUST_USE;
/* Closes at once: who waits in the queue is reset. */
void listener_stop(struct listener *l);
/* Accepts what is queued already, some in each turn, then closes and frees; closed(ctx of accept) comes last, from the
 * loop, which is held until then. */
void listener_close(struct listener *l, loop_fn *closed);

#endif
