/* Listening addresses through start and reloads.
 *
 * What is hard is an address that overlaps one in force, as 0.0.0.0:8443 beside [::]:8443: both are open while the old
 * one's queue is still served, so there the first socket shares the port as well. */
#include "server/doors.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "server/listener.h"

#include <errno.h>
#include <unistd.h>

enum { ERROR_SIZE = 512 };

static bool has_port(const struct doors *doors, uint16_t port)
{
	for (size_t i = 0; i < doors->count; i++)
		if (addr_port(&doors->at[i].real) == port)
			return true;
	return false;
}

/* Entries with port 0 are equal without being the same: each of them takes one. */
static const struct door *find(const struct doors *present, const struct addr *configured, size_t nth)
{
	for (size_t i = 0; i < present->count; i++)
		if (addr_equal(&present->at[i].configured, configured) && nth-- == 0)
			return &present->at[i];
	return NULL;
}

static size_t equals_before(const struct doors *doors, size_t i)
{
	size_t n = 0;

	for (size_t j = 0; j < i; j++)
		n += addr_equal(&doors->at[j].configured, &doors->at[i].configured);
	return n;
}

static bool open_one(struct door *door, const struct doors *present, size_t workers)
{
	char error[ERROR_SIZE];
	bool good;

	door->real = door->configured;
	door->fds = mem_array(workers, sizeof(*door->fds));
	if (!door->fds) {
		log_err("listen: out of memory");
		return false;
	}
	errno = 0;
	good = listener_bind(&door->real, door->fds, workers, true, error, sizeof(error));
	if (!good && errno == EADDRINUSE && has_port(present, addr_port(&door->configured)))
		good = listener_bind(&door->real, door->fds, workers, false, error, sizeof(error));
	if (good)
		return true;
	log_err("listen: %s", error);
	mem_free(door->fds);
	door->fds = NULL;
	return false;
}

bool doors_open(struct doors *doors, const struct conf *conf, const struct doors *present, size_t workers)
{
	bool good = true;

	*doors = (struct doors){ .count = conf->listen_count, .workers = workers };
	doors->at = mem_array(doors->count, sizeof(*doors->at));
	if (!doors->at) {
		log_err("listen: out of memory");
		doors->count = 0;
		return false;
	}
	for (size_t i = 0; i < doors->count; i++) {
		const struct door *same;

		doors->at[i].configured = conf->listen[i].address;
		same = find(present, &doors->at[i].configured, equals_before(doors, i));
		if (same)
			doors->at[i].real = same->real;
		else
			good = open_one(&doors->at[i], present, workers) && good;
	}
	if (!good)
		doors_fini(doors);
	return good;
}

int doors_take(struct doors *doors, size_t i, size_t worker)
{
	int fd;

	if (!doors->at[i].fds)
		return -1;
	fd = doors->at[i].fds[worker];
	doors->at[i].fds[worker] = -1;
	return fd;
}

void doors_settle(struct doors *doors)
{
	for (size_t i = 0; i < doors->count; i++) {
		mem_free(doors->at[i].fds);
		doors->at[i].fds = NULL;
	}
}

void doors_fini(struct doors *doors)
{
	for (size_t i = 0; i < doors->count; i++)
		for (size_t w = 0; doors->at[i].fds && w < doors->workers; w++)
			if (doors->at[i].fds[w] >= 0)
				close(doors->at[i].fds[w]);
	doors_settle(doors);
	mem_free(doors->at);
	*doors = (struct doors){ 0 };
}
