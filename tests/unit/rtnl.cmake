# SPDX-License-Identifier: Apache-2.0
if(TARGET mcmesh_rtnl)
	mcmesh_test(test_node_rtnl SOURCES unit/node/rtnl.c LIBS mcmesh_rtnl LABEL e2e)
	mcmesh_test(test_node_route SOURCES unit/node/route.c LIBS mcmesh_rtnl PkgConfig::MNL)
endif()
