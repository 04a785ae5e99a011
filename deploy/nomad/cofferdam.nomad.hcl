# Cofferdam on every client of a Nomad cluster that is meant for it.
#
# A client allows a task no more time to stop than its own limit says, 30 s unless it is set. Every
# client that runs this job needs, in its configuration:
#
#     client { max_kill_timeout = "15m" }
#
# Without that Nomad kills the service in the middle of its drain. The next start then removes what
# it left, but the sandboxes are gone.
#
# To upgrade without an end of the task, put the new cofferdam and envd on the client, run
# `NEW/cofferdam node handover` there, and then change the job, or its next restart brings the old
# program back.

job "cofferdam" {
  type        = "system"
  datacenters = ["*"]

  constraint {
    attribute = "${meta.cofferdam}"
    value     = "true"
  }

  update {
    # One node at a time: the others take the sandboxes it does not take any more.
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    # Starting includes removing what an earlier run left, and, once, making the base template.
    healthy_deadline = "15m"
    progress_deadline = "20m"
  }

  group "node" {
    network {
      mode = "host"
      port "http" { static = 3000 }
    }

    service {
      name     = "cofferdam"
      provider = "nomad"
      port     = "http"

      # A node that drains answers 200: it still serves the sandboxes it has, so a check that
      # failed then would take their traffic away.
      check {
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "3s"
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "2s"
      mode     = "delay"
    }

    task "cofferdam" {
      # It makes namespaces, links and control groups, so it runs on the host itself, as root.
      driver = "raw_exec"

      config {
        command = "/usr/local/bin/cofferdam"
        args    = ["up", "--listen", "0.0.0.0:${NOMAD_PORT_http}"]
      }

      env {
        COFFERDAM_DATA_DIR = "/var/lib/cofferdam"
        # A little less than kill_timeout. Sandboxes may go on until 120 s before it: that is what
        # ending them and proving that nothing is left may take.
        COFFERDAM_SHUTDOWN_KILL_DEADLINE = "14m30s"
      }

      # The first signal drains. Nomad sends no second one before it kills.
      kill_signal  = "SIGTERM"
      kill_timeout = "15m"

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
