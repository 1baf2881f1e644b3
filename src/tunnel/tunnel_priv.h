/* What tunnel.c (the way of a request), tunnel_carry.c (its bytes) and tunnel_end.c (its ends) share. */
#ifndef ADIT_SRC_TUNNEL_TUNNEL_PRIV_H
#define ADIT_SRC_TUNNEL_TUNNEL_PRIV_H

#include "adit/dial/dial.h"
#include "adit/tunnel/relay.h"
#include "adit/tunnel/tunnel.h"
#include "tunnel/exchange.h"
#include "tunnel/record.h"

/* NEXT: go on. WAIT: a callback will. DONE: answered, and the tunnel is not to be touched any more. */
enum step { STEP_NEXT, STEP_WAIT, STEP_DONE };

/* Where the tunnel may go. */
struct choice {
	struct addr addresses[DNS_ADDRESSES_MAX];
	const char *rules[DNS_ADDRESSES_MAX]; /* which let each of them through */
	size_t count;
};

#define TUNNEL_MAGIC OBJ_MAGIC('t', 'u', 'n', 'l')

struct tunnel {
	uint32_t magic;
	struct tunnel_env *env;
	struct conf *conf;
	struct policy *policy; /* that allowed the addresses; NULL before */
	unsigned generation; /* of users and policy, when they were asked last */
	struct request *request; /* NULL once it was answered with a refusal */
	size_t at; /* index into steps */
	struct deadline deadline;
	enum reason deadline_reason;
	struct loop_grave grave;

	struct access access;
	char *user;
	unsigned retry_after_s;
	struct choice *choice; /* NULL before resolve and after dial: an idle tunnel need not carry it */

	/* at most one of these is under way */
	struct auth_job *auth;
	struct dns_query *query;
	struct dial *dial;
	struct record_wait *record;

	bool recorded; /* an open record was handed to the writer: a close record must follow */
	bool relaying; /* and in env's list */
	TAILQ_ENTRY(tunnel) entry;
	int target_fd; /* connected, before the record; -1: none */
	struct stream *client, *target;
	struct relay *relay; /* of a CONNECT */
	struct exchange *exchange; /* of a forwarded request; `target` is its own then */
	bool reused; /* over a connection that was idle: the target may have closed it meanwhile */
	bool redialled;
	struct loop_task redial;
	struct deadline progress;
};

/* The last steps. */
enum step tunnel_forward(struct tunnel *t);
enum step tunnel_relay(struct tunnel *t);
/* Back to the dial of the same address: the connection that was taken was closed under the request. */
void tunnel_repeat(struct tunnel *t);
void tunnel_on_progress(void *tunnel); /* the progress timer's */

/* Ends: each with one reason and one last record, and nothing calls back any more. */

/* The answer is a refusal. */
void tunnel_refuse(struct tunnel *t, enum reason reason);
enum step tunnel_refuse_step(struct tunnel *t, enum reason reason); /* the same; DONE */
/* The client is gone before its answer, or cannot be given one. */
void tunnel_vanish(struct tunnel *t, enum reason reason);
/* The tunnel, or the exchange whose response had begun, is over. */
void tunnel_finish(struct tunnel *t, enum reason reason);
/* An exchange or a tunnel ends for a reason of ours or theirs: the one of these three that is left. */
void tunnel_end(struct tunnel *t, enum reason reason);
/* Without a record: it was no access, or its record is written. */
void tunnel_bury(struct tunnel *t);

void tunnel_count(const struct tunnel *t, struct relay_count *out);
/* Nothing of the exchange calls back any more. What comes back is fit for another request. */
struct stream *tunnel_leave_exchange(struct tunnel *t, enum reason reason);

#endif
