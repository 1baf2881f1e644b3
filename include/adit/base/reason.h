/* Why a request or connection ended: one row of reason.def answers the client (status, Proxy-Status), the record,
 * the log and the counter, so that the four can never disagree. */
#ifndef ADIT_BASE_REASON_H
#define ADIT_BASE_REASON_H

enum reason {
#define REASON(id, name, status, token, level, sentence) REASON_##id,
#include "adit/base/reason.def"
#undef REASON
	REASON_COUNT
};

/* syslog priorities as far as a reason needs them */
enum reason_level {
	REASON_LEVEL_DEBUG,
	REASON_LEVEL_INFO,
	REASON_LEVEL_NOTICE,
	REASON_LEVEL_WARNING,
	REASON_LEVEL_ERR
};

struct reason_row {
	const char *name; /* the word: record, log, counter, Proxy-Status details */
	int status; /* HTTP status of the refusal; 0: no response is possible or due */
	const char *token; /* RFC 9209 2.3 proxy error type; NULL: none fits */
	enum reason_level level;
	const char *sentence; /* for the client's body and the log: what happened and what to do, without secrets */
};

const struct reason_row *reason_row(enum reason r);
const char *reason_name(enum reason r);

#endif
