/* One request from its head to its record: authenticate, authorise, resolve, dial, put on record, answer, relay. */
#ifndef ADIT_TUNNEL_TUNNEL_H
#define ADIT_TUNNEL_TUNNEL_H

#include "adit/audit/audit.h"
#include "adit/auth/auth.h"
#include "adit/conf/conf.h"
#include "adit/dns/dns.h"
#include "adit/http/request.h"
#include "adit/policy/policy.h"

/* What requests of one worker work with. conf and policy are those in force: a request takes references when it begins.
 * */
struct tunnel_env {
	struct loop *loop;
	struct conf *conf;
	struct policy *policy;
	struct auth *auth;
	struct dns *dns;
	struct audit *audit;
	char *buffer; /* for the relay, used within one callback */
	size_t buffer_bytes;
	bool draining; /* new tunnels are refused */
};

/* Handler for http: its ctx is the worker's struct tunnel_env. */
extern const struct http_handler tunnel_handler;

#endif
