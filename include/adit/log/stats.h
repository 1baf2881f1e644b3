/* Counters and gauges, atomic, process-wide. Every reason has a counter; the rest are rows here. */
#ifndef ADIT_LOG_STATS_H
#define ADIT_LOG_STATS_H

#include "adit/base/reason.h"

/* STAT(id, name, what it counts). Gauges go up and down, and are 0 when nothing lives. */
#define STATS_TABLE                                                              \
	STAT(CONNECTIONS, "connections", "gauge: client connections alive")      \
	STAT(UNAUTHENTICATED, "unauthenticated", "gauge: of these, without a login so far") \
	STAT(REQUESTS, "requests", "gauge: requests in work")                    \
	STAT(TUNNELS, "tunnels", "gauge: tunnels open")                          \
	STAT(EXCHANGES, "exchanges", "gauge: requests being forwarded")          \
	STAT(IDLE_TARGETS, "idle_targets", "gauge: idle connections to destinations, kept for the next request") \
	STAT(ACCEPTED, "accepted_total", "client connections accepted")          \
	STAT(HANDSHAKES, "handshakes_total", "TLS handshakes finished")          \
	STAT(RESUMED, "handshakes_resumed_total", "of these, resumed by a ticket") \
	STAT(TUNNELS_OPENED, "tunnels_opened_total", "tunnels that got their 200") \
	STAT(FORWARDED, "forwarded_total", "requests forwarded")                 \
	STAT(REUSED, "targets_reused_total", "of these, on a connection that was kept") \
	STAT(BYTES_UP, "bytes_up_total", "bytes of tunnels and bodies from clients to destinations") \
	STAT(BYTES_DOWN, "bytes_down_total", "bytes of tunnels and bodies from destinations to clients") \
	STAT(HASHES, "password_hashes_total", "passwords hashed")                \
	STAT(LOG_DROPPED, "log_lines_dropped_total", "diagnostic lines that found the queue full") \
	STAT(AUDIT_RECORDS, "audit_records_total", "audit records written")      \
	STAT(AUDIT_FAILED, "audit_failed_total", "audit records that could not be written") \
	STAT(AUDIT_SUPPRESSED, "audit_suppressed_total", "refusals of strangers that went into a summary only")

enum stats_id { /* not `enum stat`: that is <sys/stat.h>'s tag */
#define STAT(id, name, what) STAT_##id,
	STATS_TABLE
#undef STAT
	STAT_COUNT
};

void stats_add(enum stats_id s, long long n);
static inline void stats_inc(enum stats_id s) { stats_add(s, 1); }
static inline void stats_dec(enum stats_id s) { stats_add(s, -1); }
long long stats_get(enum stats_id s);
const char *stats_name(enum stats_id s);

void stats_reason(enum reason r); /* +1 */
long long stats_reason_get(enum reason r);

#endif
