package vlreceiver

import "net/http"

// Handler lets a benchmark leave out the socket.
func (s *Server) Handler() http.Handler { return s.life }
