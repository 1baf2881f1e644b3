/* The addresses that the server listens on, and new sockets for them on their way to the workers. */
#ifndef ADIT_SRC_SERVER_DOORS_H
#define ADIT_SRC_SERVER_DOORS_H

#include "adit/conf/conf.h"

struct door {
	struct addr configured;
	struct addr real; /* with the port that was bound, or 0.0.0.0 for [::] where there is no IPv6 */
	int *fds; /* new: one for each worker, listening already; NULL: the workers have it */
};

struct doors {
	struct door *at; /* in the order of conf->listen */
	size_t count, workers;
};

/* What conf wants: an address that `present` has stays as it is, every other one is bound. False after a line in the
 * log for each that cannot be; nothing stays open then. */
bool doors_open(struct doors *doors, const struct conf *conf, const struct doors *present,
	size_t workers) ADIT_MUST_USE;
/* The worker's socket of door i, which is the caller's from now on; -1: it has one already. */
int doors_take(struct doors *doors, size_t i, size_t worker);
/* All sockets have been taken: from now on the workers have them. */
void doors_settle(struct doors *doors);
/* Closes what nobody took. */
void doors_fini(struct doors *doors);

#endif
