/* One thread with a loop of its own: its listeners, its connections, its DNS channel, its TLS context. */
#ifndef ADIT_SRC_SERVER_WORKER_H
#define ADIT_SRC_SERVER_WORKER_H

#include "adit/tls/tls_stream.h"
#include "adit/tunnel/tunnel.h"
#include "server/limits.h"

#include <pthread.h>

struct worker;
struct conn;
TAILQ_HEAD(conn_list, conn);

/* What all workers share. */
struct shared {
	struct auth *auth;
	struct audit *audit;
	struct limits *limits;
};

/* A snapshot to work with: references, handed over. */
struct snapshot {
	struct conf *conf;
	struct policy *policy;
	struct tls_context *tls; /* NULL in an adoption: the present one stays */
	struct dns_hosts *hosts; /* NULL in an adoption: they stay, and so do the name servers */
};
void snapshot_drop(struct snapshot *s);

/* A worker that is not running yet and listens nowhere. The snapshot is taken over; NULL: out of memory or descriptors,
 * then it is not. */
struct worker *worker_new(const struct shared *shared, struct snapshot *snapshot) ADIT_MUST_USE;
/* Its thread. ended(ctx) comes on `main`'s thread when the worker has stopped: worker_join will not wait then. */
bool worker_start(struct worker *w, struct loop *main, loop_fn *ended, void *ctx) ADIT_MUST_USE;
/* From the main thread. */
void worker_drain(struct worker *w); /* stop accepting, end idle connections, stop when nothing is left */
void worker_abort(struct worker *w); /* end what is left, with reason `shutdown` */
void worker_join(struct worker *w);
void worker_free(struct worker *w); /* after worker_join, or never started; after auth_stop and audit_stop */

/* A worker's going over to a new snapshot and new addresses: everything that can fail is done before it is sent. */
struct adoption;
struct adoption *adoption_new(struct worker *w, size_t addresses) ADIT_MUST_USE;
/* What holds for the connections that come by one address. */
struct listen_options {
	bool close_after_refusal, http2;
};
/* Each address that it shall listen on from then on; the others are closed once their queues are served. fd: a
 * listening socket, taken over (also when this fails); -1: the worker has the address already. */
bool adoption_listen(struct adoption *a, const struct addr *real, const struct listen_options *options,
	int fd) ADIT_MUST_USE;
/* Takes over the snapshot; what begins from now on follows it, and what runs is reviewed (tunnels_review). done(a) on
 * the main thread: it has gone over. */
void adoption_send(struct adoption *a, struct snapshot *snapshot, loop_fn *done, void *ctx);
void *adoption_ctx(const struct adoption *a);
/* After done: whether there was memory for all of it. If not, the worker does not listen everywhere, or keeps its name
 * servers. */
bool adoption_good(const struct adoption *a);
void adoption_free(struct adoption *a); /* after done, or never sent */

/* --- for conn.c --- */
struct worker_parts {
	struct tunnel_env env;
	struct tls_context *tls;
	struct tls_wire *wire;
	struct limits *limits;
	struct conn_list conns;
};
#endif
