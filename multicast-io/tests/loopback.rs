//! Every scenario over IPv4 multicast on the loopback: needs no privilege and no set-up.

mod scenarios;

use scenarios::{ALL, Family};

/// One test function a scenario, so that each is seen by name.
macro_rules! over_ipv4 {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let name = stringify!($name);
            let (_, scenario) = ALL.iter().find(|(known, _)| *known == name).expect(name);
            scenario(Family::V4);
        })*

        #[test]
        fn every_scenario_is_listed() {
            assert_eq!([$(stringify!($name)),*].len(), ALL.len());
        }
    };
}

over_ipv4! {
    a_padded_train_arrives_frame_by_frame
    without_gso_the_same_frames_arrive_unpadded
    without_gro_the_kernel_splits_the_train
    a_train_beyond_the_kernels_limits_is_split
    trains_of_two_senders_keep_their_sources
    more_trains_than_one_call_takes_arrive_in_order
    trains_of_any_shape_arrive_whole
    an_empty_frame_arrives_as_an_empty_datagram
    the_longest_datagram_fits_a_slot
    a_frame_too_long_for_any_datagram_is_named
    a_span_outside_of_memory_is_an_error
    disjoint_groups_on_one_port_do_not_leak
    a_group_that_was_left_is_silent
    more_groups_than_a_socket_may_join_take_several
    a_membership_that_lapsed_is_taken_up_again
    a_source_specific_join_takes_only_that_source
    a_socket_bound_to_a_group_takes_only_that_group
    every_datagram_is_received_or_counted_as_dropped
    a_datagram_longer_than_its_slot_is_counted
    packet_info_names_the_group_and_answers_from_there
    an_icmp_error_neither_stops_nor_hides_a_send
    no_slot_no_system_call
    a_join_that_cannot_be_names_what_is_wrong
    a_buffer_that_was_clamped_names_the_knob
    multicast_works_here
    own_sockets_share_a_port_that_others_do_not_get
    a_socket_that_withdraws_keeps_what_it_has_and_gets_no_more
}
