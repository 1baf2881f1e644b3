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
	struct tls_context *tls; /* NULL in worker_adopt: keep the present one */
	struct dns_hosts *hosts;
};
void snapshot_drop(struct snapshot *s);

/* A worker that is not running yet. `listeners` (count sockets, in the order of conf->listen) are taken over. NULL: out
 * of memory or descriptors; then nothing was taken over. */
struct worker *worker_new(const struct shared *shared, struct snapshot *snapshot, const int *listeners,
	size_t count) ADIT_MUST_USE;
/* Its thread. ended(ctx) comes on `main`'s thread when the worker has stopped: worker_join will not wait then. */
bool worker_start(struct worker *w, struct loop *main, loop_fn *ended, void *ctx) ADIT_MUST_USE;
/* From the main thread. */
void worker_drain(struct worker *w); /* stop accepting, end idle connections, stop when nothing is left */
void worker_abort(struct worker *w); /* end what is left, with reason `shutdown` */
/* New snapshot for what begins from now on, in two steps so that a reload can fail before it begins: the order
 * (mem_free it when it is not used after all), then the snapshot, whose references are taken over. */
struct order;
struct order *worker_adoption(struct worker *w) ADIT_MUST_USE;
void worker_adopt(struct order *o, const struct snapshot *snapshot);
void worker_join(struct worker *w);
void worker_free(struct worker *w); /* after worker_join, or never started; after auth_stop and audit_stop */

/* --- for conn.c --- */
struct worker_parts {
	struct tunnel_env env;
	struct tls_context *tls;
	struct tls_wire *wire;
	struct limits *limits;
	struct conn_list conns;
};
#endif
