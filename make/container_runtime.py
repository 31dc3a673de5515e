"""Says whether there is a container runtime that the SAM CLI would use; its own Python runs this.

What runs, and where DOCKER_HOST and the machine's administrator let it be looked for, is the SAM
CLI's to decide. It looks only after the build: somebody without Docker would wait for nothing.
"""

import sys

from samcli.local.docker.container_client_factory import ContainerClientFactory
from samcli.local.docker.exceptions import (
    ContainerEnforcementException,
    ContainerNotReachableException,
)

try:
    ContainerClientFactory.create_client()
except (ContainerEnforcementException, ContainerNotReachableException):
    sys.exit(
        "make invoke runs the function in a container, and no container runtime answers here: "
        "install Docker or Finch and start it, or let DOCKER_HOST say where one runs. "
        "(make refresh runs the deployed function, and needs none.)"
    )
