/* The main thread's state, for server.c (life) and reload.c (configurations). */
#ifndef ADIT_SRC_SERVER_SERVER_PRIV_H
#define ADIT_SRC_SERVER_SERVER_PRIV_H

#include "adit/server/server.h"
#include "server/doors.h"
#include "server/watch.h"
#include "server/worker.h"

enum { SERVER_SIGNALS = 4, SERVER_TEXT_SIZE = 512, SERVER_LOCALS_MAX = 256 };

struct server {
	const struct server_source *source;
	struct loop *loop; /* the main thread's */
	struct conf *conf; /* in force */
	struct tls_tickets *tickets;
	struct shared shared;
	struct doors doors; /* in force */
	struct addr locals[SERVER_LOCALS_MAX]; /* the machine's own addresses when they were looked at last */
	size_t local_count;
	struct worker **workers;
	size_t worker_count, ended;
	struct event *signals[SERVER_SIGNALS];
	struct watch htpasswd, hosts, resolv;
	unsigned users_settling; /* looks at which the htpasswd file was another one; 0: it is as it was read */
	bool users_unread; /* the htpasswd file has changed and could not be got at */
	const char *unfollowed; /* what has changed and there was no memory to follow; NULL: nothing */
	bool unfollowed_names;
	struct deadline watch_tick, drain;

	/* a configuration on its way to the workers */
	size_t adopting; /* who have not answered yet */
	bool adoption_failed;
	bool reload_wanted; /* asked for meanwhile */
	char news[SERVER_TEXT_SIZE]; /* said when all have answered */

	bool ready, draining, aborting;
	int status; /* of the process */
};

/* --- reload.c --- */
bool server_start_services(struct server *s) ADIT_MUST_USE;
bool server_make_workers(struct server *s) ADIT_MUST_USE;
/* Sends the configuration that the server starts with; the answers make it ready. */
bool server_first_configuration(struct server *s) ADIT_MUST_USE;
void server_reload(struct server *s);
/* Looks at the watched files. */
void server_look(struct server *s);

/* --- server.c --- */
/* Every worker has gone over to the configuration that was sent last. */
void server_adopted(struct server *s);
/* systemd's state lines (sd_notify(3)); nothing without systemd. */
void server_notify(const char *format, ...) ADIT_PRINTF(1, 2);

#endif
