"""By which protocol a test speaks with the proxy. conftest.py runs every test once for each, but those that are about
one of them; `current` is that of the test that is running."""

current = "h1"


def alpn():
    """What a client offers: many that speak HTTP/1.1 to a proxy offer nothing."""
    return {"h1": None, "h2": ["h2"]}[current]


NO_TUNNEL = "opens no tunnel by itself"
SYNTAX = "is about HTTP/1.1 on the wire"
REFUSAL = "is about what becomes of an HTTP/1.1 connection after a refusal; test_h2.py has HTTP/2's streams"
UPGRADE = "HTTP/2 has no Upgrade"
OWN_CLIENT = "the client chooses its protocol"
ATTACKERS = "attackers.py speaks HTTP/1.1; test_h2_floods.py has the like"
HALF_CLOSED_TLS = "a TLS connection with one direction closed is no end of a stream; test_h2.py has HTTP/2's"

# What runs over HTTP/1.1 alone, and why: files, or tests of files.
ONLY_H1 = {
    "test_cli.py": NO_TUNNEL,
    "test_dist.py": NO_TUNNEL,
    "test_docs.py": NO_TUNNEL,
    "test_notify.py": NO_TUNNEL,
    "test_systemd.py": NO_TUNNEL,
    "test_clients.py": OWN_CLIENT,
    "test_curl_http2.py": OWN_CLIENT,
    "test_more_clients.py": OWN_CLIENT,
    "test_head.py": SYNTAX,
    "test_forward_hostile.py": SYNTAX,
    "test_forward_clients.py": OWN_CLIENT,
    "test_forward.py": {
        "test_the_head_byte_for_byte": SYNTAX,
        "test_Via_is_appended": SYNTAX,
        "test_what_is_of_one_hop_stays_there": SYNTAX,
        "test_Connection_names_nothing_away_that_is_needed": SYNTAX,
        "test_the_password_reaches_nobody": SYNTAX,
        "test_a_response_field_for_field": SYNTAX,
        "test_hop_by_hop_fields_of_responses": SYNTAX,
        "test_1_0_clients": SYNTAX,
        "test_a_client_that_wants_to_close": SYNTAX,
        "test_pipelined_requests_are_answered_in_order": SYNTAX,
        "test_pipelined_and_gone": SYNTAX,
        "test_forwarded_then_tunnel_in_one_segment": SYNTAX,
        "test_bodies_are_counted_without_their_framing": SYNTAX,
        "test_urls_that_are_none": SYNTAX,
    },
    "test_forward_bodies.py": {
        "test_a_chunked_body_with_trailers_and_extensions": SYNTAX,
        "test_trailers_that_may_not_be_any": SYNTAX,
        "test_a_body_in_every_cut": SYNTAX,
        "test_a_refusal_instead_of_100": SYNTAX,
        "test_Expect_of_1_0_means_nothing": SYNTAX,
        "test_1_0_clients_get_no_1xx": SYNTAX,
        "test_an_upload_to_an_origin_that_does_not_read": SYNTAX,
        "test_bytes_pass_as_they_come": SYNTAX,
        "test_an_early_answer_while_the_client_pours": SYNTAX,
        "test_websockets": UPGRADE,
        "test_a_websocket_whose_server_finishes_first": UPGRADE,
        "test_what_comes_right_behind_an_upgrade_request": UPGRADE,
        "test_an_upgrade_that_is_declined": UPGRADE,
        "test_a_large_websocket_both_ways": UPGRADE,
        "test_no_upgrade_with_1_0_or_without_Connection": UPGRADE,
        "test_a_client_that_goes_amid_an_upload": SYNTAX,
        "test_an_origin_that_goes_amid_its_answer": SYNTAX,
        "test_an_origin_that_goes_amid_an_upload": SYNTAX,
    },
    "test_tls.py": "is about TLS alone",
    "test_alpn.py": OWN_CLIENT,
    "test_pac.py": {
        "test_head_has_the_same_fields_and_no_body": SYNTAX,
        "test_other_methods_and_paths": SYNTAX,
        "test_a_bad_value_is_refused_with_its_place": NO_TUNNEL,
    },
    "test_hostile_aborts.py": ATTACKERS,
    "test_hostile_clients.py": ATTACKERS,
    "test_hostile_records.py": SYNTAX,
    "test_connect.py": {
        "test_curl_reaches_https_sites": OWN_CLIENT,
        "test_curl_reaches_a_site_by_name": OWN_CLIENT,
        "test_curl_reaches_an_ipv6_site": OWN_CLIENT,
        "test_curl_over_an_ipv6_listener": OWN_CLIENT,
        "test_50_curls_at_once": OWN_CLIENT,
        "test_20_megabytes_down": OWN_CLIENT,
        "test_20_megabytes_up": OWN_CLIENT,
        "test_curl_with_a_wrong_password": OWN_CLIENT,
        "test_curl_where_the_policy_says_no": OWN_CLIENT,
        "test_credentials_do_not_reach_the_origin": OWN_CLIENT,
        "test_a_refusal_ends_the_connection": REFUSAL,
        "test_what_follows_a_refusal_later_is_not_read_either": REFUSAL,
        "test_a_switch_keeps_connections_open_after_a_refusal": REFUSAL,
    },
    "test_audit.py": {
        "test_protocol_1_0_is_told": SYNTAX,
        "test_hostile_texts_of_strangers": SYNTAX,
        "test_an_unusable_directory_is_told_at_start": NO_TUNNEL,
    },
    "test_deadlines.py": {
        "test_handshake_without_a_byte": NO_TUNNEL,
        "test_handshake_in_drops": NO_TUNNEL,
        "test_head_that_never_comes": SYNTAX,
        "test_head_that_stops_half_way": SYNTAX,
        "test_head_in_drops": SYNTAX,
        "test_keepalive": "has its like in test_h2_life.py",
        "test_lingering_after_a_refusal": REFUSAL,
    },
    "test_limits.py": {
        "test_off": NO_TUNNEL,
        "test_handshakes_per_prefix": NO_TUNNEL,
    },
    "test_reload.py": {
        "test_what_else_a_reload_changes": SYNTAX,
        "test_what_becomes_of_a_refused_connection": REFUSAL,
    },
    "test_secrets.py": {
        "test_passwords_on_the_command_line_are_not_asked_for": NO_TUNNEL,
        "test_a_password_in_a_target_is_not_recorded": SYNTAX,
    },
    "test_tunnel.py": {
        "test_a_truncated_client_still_receives": HALF_CLOSED_TLS,
        "test_s_client_ends_cleanly": OWN_CLIENT,
        "test_s_client_killed_is_truncation": OWN_CLIENT,
        "test_s_client_receives_all_to_the_close_notify": OWN_CLIENT,
    },
}


def of(file, test):
    """The protocols by which this test is run."""
    if file.startswith("test_h2"):
        return ["h2"]
    only = ONLY_H1.get(file, {})
    return ["h1"] if isinstance(only, str) or test in only else ["h1", "h2"]
