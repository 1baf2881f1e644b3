/* One accepted client connection: TLS handshake, then the HTTP version that was agreed on. */
#ifndef ADIT_SRC_SERVER_CONN_H
#define ADIT_SRC_SERVER_CONN_H

#include "server/worker.h"

/* Takes over fd. `peer` was admitted by limits_enter; the connection gives that back when it ends. */
void conn_accept(struct worker_parts *w, int fd, const struct addr *peer, const struct listen_options *options);
/* Ends it, whatever it is at. */
void conn_abort(struct conn *c, enum reason reason);
/* No new request on it. */
void conn_drain(struct conn *c);

struct conn *conn_next(struct conn *c);

#endif
