/* HTTP/2 streams as tunnels and exchanges: bytes, ends of either side in any order, refusals, resets. */
#include "unit/http/h2_peer.h"

#include "adit/log/stats.h"

#include <criterion/criterion.h>

static void setup(void)
{
	peer_open(NULL, 0);
	cr_assert(peer_start());
}

static void teardown(void)
{
	cr_assert_not(peer.client_failed, "the client took something for an error");
	peer_stop();
	peer_close();
}

TestSuite(h2_stream, .init = setup, .fini = teardown, .timeout = 120);

static int32_t tunnel(void)
{
	int32_t id;

	peer.on_begin = job_accept;
	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 200);
	return id;
}

/* --- half-closes --- */

Test(h2_stream, after_the_targets_end_the_client_still_sends)
{
	int32_t id = tunnel();

	job_write(job_at(0), "last words", 10);
	job_finish(job_at(0));
	peer_run();
	cr_assert(peer_at(id)->ended);
	cr_assert_str_eq(peer_at(id)->data, "last words");
	cr_assert_not(peer_at(id)->closed);
	peer_send_pattern(id, 300000, false);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 300000u, "%zu bytes came", job_at(0)->in_n);
	cr_assert(peer_is_pattern(job_at(0)->in, 300000, 0));
	peer_send_text(id, "!", true);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 300001u);
	cr_assert(job_at(0)->eof);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
}

Test(h2_stream, after_the_clients_end_the_target_still_sends)
{
	int32_t id = tunnel();

	peer_send_text(id, "request", true);
	peer_run();
	cr_assert(job_at(0)->eof);
	cr_assert_str_eq(job_at(0)->in, "request");
	job_supply(job_at(0), 300000, true);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 300000u);
	cr_assert(peer_is_pattern(peer_at(id)->data, 300000, 0));
	cr_assert(peer_at(id)->ended);
	cr_assert_geq(job_at(0)->drained, 1u, "the end's leaving was not told");
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
}

/* Both ends have come, but the target has not taken everything yet; meanwhile the client says good-bye. */
Test(h2_stream, bytes_outlive_the_frames_that_brought_them)
{
	int32_t id = tunnel();
	struct frames *f = calloc(1, sizeof(*f));
	static const uint8_t zeros[8];

	job_at(0)->reads = false;
	job_finish(job_at(0));
	peer_send_pattern(id, 50000, true);
	peer_run();
	put_frame(f, NGHTTP2_GOAWAY, 0, 0, zeros, sizeof(zeros));
	peer_feed(f);
	free(f);
	cr_assert_eq(job_at(0)->gone, 0u, "%s", reason_name(job_at(0)->why));
	job_at(0)->reads = true;
	stream_resume(job_at(0)->s, STREAM_PAUSE_PEER_FULL);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 50000u);
	cr_assert(job_at(0)->eof);
	cr_assert_not(peer.m->closed);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer.m->closed, "nothing is left to be done");
}

/* --- ends that are none --- */

Test(h2_stream, a_truncated_tunnel_is_reset_behind_its_bytes)
{
	int32_t id = tunnel();

	job_write(job_at(0), "half a rec", 10);
	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
	peer_run();
	cr_assert_str_eq(peer_at(id)->data, "half a rec");
	cr_assert_not(peer_at(id)->ended);
	cr_assert(peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_CONNECT_ERROR);
}

Test(h2_stream, a_truncated_tunnel_with_nothing_queued_is_reset_at_once)
{
	int32_t id = tunnel();

	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
	peer_run();
	cr_assert(peer_at(id)->reset && !peer_at(id)->ended);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_CONNECT_ERROR);
}

/* The end was said, but it had not left. */
Test(h2_stream, a_finished_tunnel_can_still_be_truncated)
{
	int32_t id = tunnel();

	job_write(job_at(0), "half a rec", 10);
	job_finish(job_at(0));
	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
	peer_run();
	cr_assert_not(peer_at(id)->ended, "a proper end");
	cr_assert_eq(peer_at(id)->error, NGHTTP2_CONNECT_ERROR);
}

Test(h2_stream, an_aborted_tunnel_is_cancelled)
{
	int32_t id = tunnel();

	job_write(job_at(0), "never", 5);
	job_close(job_at(0), STREAM_CLOSE_ABORT);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 0u);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_CANCEL);
	cr_assert(peer_at(id)->reset && !peer_at(id)->ended);
}

Test(h2_stream, bytes_of_a_closed_tunnel_do_not_wait_for_ever)
{
	const nghttp2_settings_entry none = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0 };
	int32_t id;

	peer.on_begin = job_accept;
	peer_hello_settings(false, &none, 1);
	id = peer_connect("a.example:443", NULL);
	peer_run();
	job_write(job_at(0), "nobody reads this", 17);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert_not(peer_at(id)->closed);
	loop_advance(peer.loop, peer.conf->deadlines.linger);
	peer_run();
	cr_assert(peer_at(id)->closed);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_CANCEL);
}

Test(h2_stream, a_client_that_resets_its_tunnel)
{
	int32_t id = tunnel();

	peer_reset(id, NGHTTP2_CANCEL);
	peer_run();
	cr_assert_eq(job_at(0)->gone, 1u);
	cr_assert_eq(job_at(0)->why, REASON_CLIENT_RESET);
}

Test(h2_stream, a_client_that_resets_while_it_is_refused)
{
	int32_t id;

	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_run();
	peer_reset(id, NGHTTP2_CANCEL);
	peer_run();
	cr_assert_eq(job_at(0)->gone, 1u);
	cr_assert_eq(job_at(0)->why, REASON_CLIENT_RESET);
	cr_assert_eq(job_at(0)->answered, 0u);
}

/* The reset has been read, but its news not been told yet. */
Test(h2_stream, a_client_that_resets_just_before_it_is_accepted)
{
	struct frames *f = calloc(1, sizeof(*f));

	peer.on_begin = job_accept;
	put_preface(f);
	put_settings(f, 0, 0);
	put_connect(f, 1, "a.example:443", false);
	put_u32_frame(f, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	peer_feed(f);
	cr_assert_eq(peer.count, 0u, "a request that was taken back is nobody's");
	f->n = 0;
	put_connect(f, 3, "a.example:443", false);
	peer_feed(f);
	cr_assert_eq(peer.count, 1u);
	cr_assert_not_null(job_at(0)->s);
	free(f);
}

/* --- bytes before the answer --- */

Test(h2_stream, early_bytes_wait_for_the_tunnel)
{
	int32_t id;

	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_send_pattern(id, 200000, false);
	peer_run();
	cr_assert_eq(peer.count, 1u);
	cr_assert_eq(peer_at(id)->up_at, 65536u, "%zu bytes went out", peer_at(id)->up_at);
	job_accept(job_at(0));
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 200000u);
	cr_assert(peer_is_pattern(job_at(0)->in, 200000, 0));
}

Test(h2_stream, early_bytes_of_a_refused_tunnel_are_dropped)
{
	int32_t id;

	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_send_pattern(id, 200000, false);
	peer_run();
	job_refuse(job_at(0), REASON_AUTH_REQUIRED);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 407);
	cr_assert(peer_at(id)->ended && peer_at(id)->closed && peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
	peer.client.logged_in = true;
	/* ... and take nothing from the others: the connection's window is whole */
	peer.on_begin = job_accept;
	for (unsigned i = 0; i < 500; i++) {
		id = peer_connect("a.example:443", NULL);
		peer_send_pattern(id, 60000, false);
		peer_run();
		cr_assert_eq(job_at(i + 1)->in_n, 60000u, "stream %u: %zu", i, job_at(i + 1)->in_n);
		job_close(job_at(i + 1), STREAM_CLOSE_ABORT);
		peer_run();
		loop_advance(peer.loop, 1000);
	}
}

Test(h2_stream, a_whole_early_message_and_its_end)
{
	int32_t id;

	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_send_text(id, "all", true);
	peer_run();
	job_accept(job_at(0));
	peer_run();
	cr_assert_str_eq(job_at(0)->in, "all");
	cr_assert(job_at(0)->eof);
}

/* --- refusals --- */

Test(h2_stream, a_refusal_is_an_answer_and_an_end)
{
	int32_t id, other;

	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer.on_begin = NULL;
	other = peer_connect("b.example:443", NULL);
	peer_run();
	cr_assert_eq(peer.count, 2u);
	job_accept(job_at(1));
	job_refuse(job_at(0), REASON_ADDRESS_DENIED);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 403);
	cr_assert(peer_at(id)->ended && peer_at(id)->closed);
	cr_assert(peer_at(id)->reset, "the client had not ended: RST_STREAM tells it not to");
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
	cr_assert(peer_has_field(id, "proxy-status: adit; "));
	cr_assert(peer_has_field(id, "content-length: "));
	cr_assert_not(peer_has_field(id, "connection"));
	cr_assert_gt(peer_at(id)->n, 0u);
	/* the other one does not notice */
	peer_send_text(other, "x", false);
	peer_run();
	cr_assert_str_eq(job_at(1)->in, "x");
}

Test(h2_stream, a_refusal_of_a_request_that_has_ended_is_no_reset)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("GET", "http", "a.example", "/", NULL, true);
	peer_run();
	job_refuse(job_at(0), REASON_AUTH_REQUIRED);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 407);
	cr_assert(peer_has_field(id, "proxy-authenticate: Basic realm=\"adit\""));
	cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
}

static void refuse_forbidden(struct peer_job *job)
{
	job_refuse(job, REASON_ADDRESS_DENIED);
}

Test(h2_stream, a_refusal_at_once)
{
	int32_t id;

	peer.on_begin = refuse_forbidden;
	peer_hello(true);
	id = peer_connect("a.example:443", NULL);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 403);
	cr_assert(peer_at(id)->closed);
}

Test(h2_stream, head_has_no_body)
{
	int32_t id;

	peer.on_begin = job_local;
	peer_hello(true);
	id = peer_request("HEAD", "https", "proxy.example", "/healthz", NULL, true);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 200);
	cr_assert(peer_has_field(id, "content-length: 3\n"));
	cr_assert_eq(peer_at(id)->n, 0u);
	cr_assert(peer_at(id)->ended && peer_at(id)->closed);
	id = peer_request("GET", "https", "proxy.example", "/healthz", NULL, true);
	peer_run();
	cr_assert_str_eq(peer_at(id)->data, "ok\n");
}

/* A refusal whose body does not fit into the client's windows waits a while, and no longer. */
Test(h2_stream, an_answer_waits_for_the_clients_window)
{
	const nghttp2_settings_entry none = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0 };
	int32_t first, second;

	peer.on_begin = refuse_forbidden;
	peer_hello_settings(false, &none, 1);
	first = peer_connect("a.example:443", NULL);
	peer_run();
	second = peer_connect("a.example:443", NULL);
	peer_run();
	cr_assert_eq(peer_at(first)->status, 403);
	cr_assert_not(peer_at(first)->ended);
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, first, 1000), 0);
	peer_run();
	cr_assert(peer_at(first)->ended && peer_at(first)->error == NGHTTP2_NO_ERROR);
	loop_advance(peer.loop, peer.conf->deadlines.linger);
	peer_run();
	cr_assert(peer_at(second)->closed && !peer_at(second)->ended);
	cr_assert_eq(peer_at(second)->error, NGHTTP2_CANCEL);
}
