/* What is said about a certificate that is loaded. */
#ifndef ADIT_TLS_JUDGE_PRIV_H
#define ADIT_TLS_JUDGE_PRIV_H

#include "adit/tls/cert.h"

struct judge {
	const char *chain_path, *key_path;
	tls_cert_report_fn *report;
	void *ctx;
	struct tls_cert *cert;
};

void judge_say(const struct judge *judge, enum tls_cert_level level, const char *fmt, ...) ADIT_PRINTF(3, 4);

/* Errors: do certificate and key belong together, and can they be served? Sets the kind of the key. */
bool judge_pair(const struct judge *judge) ADIT_MUST_USE;
/* Warnings. judge_dates also sets the time of expiry. */
void judge_dates(const struct judge *judge);
void judge_chain(const struct judge *judge);

#endif
