# SPDX-License-Identifier: Apache-2.0
add_executable(mcmesh-bench-datapath EXCLUDE_FROM_ALL bench/datapath.c bench/datapath_far.c bench/datapath_net.c
	bench/datapath_peers.c bench/datapath_scale.c bench/datapath_send.c)
target_link_libraries(mcmesh-bench-datapath PRIVATE mcmesh_flags mcmesh_bench_bpf mcmesh_datapath
	PkgConfig::BPF PkgConfig::MNL PkgConfig::JANSSON)
