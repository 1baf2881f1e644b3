/* One request from its head to its record: authenticate, authorise, resolve, dial, put on record, then answer and
 * relay, or forward. */
#ifndef ADIT_TUNNEL_TUNNEL_H
#define ADIT_TUNNEL_TUNNEL_H

#include "adit/audit/audit.h"
#include "adit/auth/auth.h"
#include "adit/conf/conf.h"
#include "adit/dial/pool.h"
#include "adit/dns/dns.h"
#include "adit/http/request.h"
#include "adit/policy/policy.h"

struct tunnel;
TAILQ_HEAD(tunnel_list, tunnel);

/* What requests of one worker work with. conf and policy are those in force: a request takes references when it uses
 * them first. */
struct tunnel_env {
	struct loop *loop;
	struct conf *conf;
	struct policy *policy;
	struct auth *auth;
	struct dns *dns;
	struct audit *audit;
	struct pool *pool; /* idle connections to targets; NULL: none are kept */
	char *buffer; /* for the relay, used within one callback */
	size_t buffer_bytes;
	bool draining; /* new tunnels are refused */

	/* tunnel.c's own */
	struct tunnel_list relaying; /* those already reviewed behind those that are not */
	unsigned generation; /* of users and policy: counts the reviews */
	struct loop_task review;
};

/* Before the first request. */
void tunnels_init(struct tunnel_env *env);
/* env->policy or the users have changed: every tunnel whose user is gone, or that the policy now refuses, ends with
 * REASON_REVOKED, some in each turn of the loop; requests on their way are judged again before their answer. */
void tunnels_review(struct tunnel_env *env);

/* Handler for http: its ctx is the worker's struct tunnel_env. */
extern const struct http_handler tunnel_handler;

#endif
