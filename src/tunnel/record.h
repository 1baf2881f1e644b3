/* The audit records of one access. */
#ifndef ADIT_SRC_TUNNEL_RECORD_H
#define ADIT_SRC_TUNNEL_RECORD_H

#include "adit/audit/audit.h"
#include "adit/http/request.h"
#include "adit/tunnel/relay.h"

/* What is known of an access so far. Pointers belong to the tunnel. */
struct access {
	char id[AUDIT_ID_SIZE];
	const struct client *client;
	const char *protocol;
	struct slice method, target;
	const char *user; /* as claimed until `authenticated` */
	bool authenticated;
	const char *rule;
	bool forwarded; /* the status is the target's, and not known when the record is opened */
	struct addr address, local; /* len 0: none yet */
	unsigned long long started_ms;
};

/* The one record that is waited for. done(ctx, ...) comes on the loop's thread unless the wait was given up. */
struct record_wait;
typedef void record_done_fn(void *ctx, enum reason verdict);
/* REASON_OK: *wait is set and done will come; else the reason why it could not even be queued. */
enum reason record_open(struct audit *audit, struct loop *loop, const struct access *a, record_done_fn *done, void *ctx,
	struct record_wait **wait) ADIT_MUST_USE;
void record_give_up(struct record_wait *wait);

void record_progress(struct audit *audit, const struct access *a, const struct relay_count *count,
	unsigned long long now_ms);
/* status: what the client was told, 0: nothing */
void record_close(struct audit *audit, const struct access *a, enum reason reason, int status,
	const struct relay_count *count, unsigned long long now_ms);
void record_deny(struct audit *audit, const struct access *a, enum reason reason);

#endif
