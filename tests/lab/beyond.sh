ip netns add podway-beyond
ip netns add podway-beyond-far
ip -n podway-lab-world link add beyond type veth peer name world netns podway-beyond
ip -n podway-beyond link add far type veth peer name eth0 netns podway-beyond-far
ip -n podway-lab-world link set beyond up
ip -n podway-beyond link set world up
ip -n podway-beyond link set far up
ip -n podway-beyond-far link set eth0 up
for n in podway-beyond podway-beyond-far; do ip netns exec $n sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; done
ip -n podway-lab-world addr add 198.18.0.1/30 dev beyond
ip -n podway-beyond addr add 198.18.0.2/30 dev world
ip -n podway-beyond addr add 203.0.113.1/24 dev far
ip -n podway-beyond-far addr add 203.0.113.2/24 dev eth0
ip -n podway-lab-world addr add fd98::1/64 dev beyond nodad
ip -n podway-beyond addr add fd98::2/64 dev world nodad
ip -n podway-beyond addr add 2001:db8:9::1/64 dev far nodad
ip -n podway-beyond-far addr add 2001:db8:9::2/64 dev eth0 nodad
for n in podway-lab-world podway-beyond; do ip netns exec $n sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; done
ip -n podway-lab-world route add 203.0.113.0/24 via 198.18.0.2
ip -n podway-lab-world route add 2001:db8:9::/64 via fd98::2
ip -n podway-beyond route add default via 198.18.0.1
ip -n podway-beyond route add default via fd98::1
ip -n podway-beyond-far route add default via 203.0.113.1
ip -n podway-beyond-far route add default via 2001:db8:9::1
ip netns exec podway-lab-world ethtool -K beyond tx off
ip netns exec podway-lab-world ethtool -K eth0 tx off
ip netns exec podway-beyond ethtool -K world tx off
ip netns exec podway-beyond ethtool -K far tx off
ip netns exec podway-beyond-far ethtool -K eth0 tx off
ip netns exec podway-beyond nft add table inet fragments
ip netns exec podway-beyond nft 'add chain inet fragments seen { type filter hook prerouting priority -500; }'
ip netns exec podway-beyond nft 'add rule inet fragments seen ip frag-off & 0x3fff != 0 counter drop'
ip netns exec podway-beyond nft 'add rule inet fragments seen exthdr frag exists counter drop'
