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

static bool overlaps(const struct doors *present, const struct addr *a)
{
	for (size_t i = 0; i < present->count; i++)
		if (addr_overlaps(&present->at[i].real, a))
			return true;
	return false;
}

/* The door in force that an address means. Entries with port 0 are equal without being the same: each takes one. */
static const struct door *take(const struct doors *present, bool *taken, const struct addr *a, bool real)
{
	for (size_t i = 0; i < present->count; i++) {
		if (taken[i] || !addr_equal(real ? &present->at[i].real : &present->at[i].configured, a))
			continue;
		taken[i] = true;
		return &present->at[i];
	}
	return NULL;
}

static void close_door(struct door *door, size_t workers)
{
	for (size_t w = 0; door->fds && w < workers; w++)
		if (door->fds[w] >= 0)
			close(door->fds[w]);
	mem_free(door->fds);
	door->fds = NULL;
}

static bool open_door(struct door *door, const struct doors *present, size_t workers)
{
	char error[ERROR_SIZE];
	bool good, beside;

	door->real = door->configured;
	door->fds = mem_array(workers, sizeof(*door->fds));
	if (!door->fds) {
		log_err("listen: out of memory");
		return false;
	}
	good = listener_bind(&door->real, door->fds, workers, true, error, sizeof(error));
	beside = !good && errno == EADDRINUSE && overlaps(present, &door->configured);
	if (beside)
		good = listener_bind(&door->real, door->fds, workers, false, error, sizeof(error));
	if (good)
		return true;
	log_err("listen: %s", error);
	if (beside) /* the kernel lets sockets of one account share a port */
		log_err("listen: it overlaps an address in force: when that was bound as another account, it takes a restart");
	mem_free(door->fds);
	door->fds = NULL;
	return false;
}

bool doors_open(struct doors *doors, const struct conf *conf, const struct doors *present, size_t workers)
{
	bool good = true, *taken = mem_array(present->count, sizeof(*taken));

	*doors = (struct doors){ .count = conf->listen_count, .workers = workers };
	doors->at = mem_array(doors->count, sizeof(*doors->at));
	if (!doors->at || !taken) {
		log_err("listen: out of memory");
		doors->count = 0;
		good = false;
	}
	for (size_t i = 0; i < doors->count; i++) {
		struct door *door = &doors->at[i];
		const struct door *same;

		door->configured = conf->listen[i].address;
		same = take(present, taken, &door->configured, false);
		if (!same)
			same = take(present, taken, &door->configured, true);
		if (!same) {
			if (!open_door(door, present, workers)) {
				good = false;
				continue;
			}
			/* where there is no IPv6, [::] may turn out to be what we have as 0.0.0.0 */
			same = take(present, taken, &door->real, true);
		}
		if (same) {
			close_door(door, workers);
			door->real = same->real;
		}
	}
	mem_free(taken);
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
		close_door(&doors->at[i], doors->workers);
	mem_free(doors->at);
	*doors = (struct doors){ 0 };
}
