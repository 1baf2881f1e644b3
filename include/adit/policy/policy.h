/* May this user reach that host and port? Rules in order, first definite match decides, default deny. Pure, immutable.
 *
 * Before resolving, conditions on addresses are unknown: a definite match before any unknown one decides, else the name
 * must be resolved and the rules are evaluated for each address. Special-use addresses need a rule that names them:
 * an exact name opens rfc1918, ula and cgnat only, "*.x" opens none, all else needs its set or a CIDR within it. An
 * allowing rule that does not open the address is passed over, and the rules after it have their say. A denying rule
 * needs no such care: it matches the address in any of its forms. */
#ifndef ADIT_POLICY_POLICY_H
#define ADIT_POLICY_POLICY_H

#include "adit/base/authority.h"
#include "adit/conf/conf.h"

struct policy;

/* `own`: addresses the proxy listens on, never a target (a wildcard stands for every local address, and `locals` lists
 * those of the machine's interfaces). Keeps a reference to conf. NULL: out of memory. */
struct policy *policy_new(struct conf *conf, const struct addr *own, size_t own_count, const struct addr *locals,
			  size_t local_count) ADIT_MUST_USE;
struct policy *policy_ref(struct policy *policy);
void policy_unref(struct policy *policy);

struct policy_question {
	const char *user;
	const struct host *host;
	uint16_t port;
	uint16_t default_ports[2]; /* of the method, for rules without ports; 0: unused. CONNECT: {443, 0} */
};

enum policy_verdict { POLICY_ALLOW, POLICY_DENY, POLICY_RESOLVE };

struct policy_answer {
	enum policy_verdict verdict;
	/* POLICY_DENY: PROXY_LOOP; ADDRESS_DENIED when it is for the address (a rule denies it, or an allowing rule for
	 * this user and port does not open it); DENIED when it is for the user, the name or the port. Else OK. */
	enum reason reason;
	/* The rule that decided (POLICY_RESOLVE: that cannot be decided yet); "default" for the default and PROXY_LOOP.
	 * Lives as long as the policy. */
	const char *rule;
};

/* Before resolving. A literal address is decided at once (never POLICY_RESOLVE). ALLOW for a name does not happen:
 * a name is always resolved before it is dialled, so the answer is DENY or RESOLVE. */
struct policy_answer policy_name(const struct policy *policy, const struct policy_question *q);
/* For one resolved address (its port is ignored): ALLOW or DENY. */
struct policy_answer policy_address(const struct policy *policy, const struct policy_question *q,
				    const struct addr *address);

#endif
